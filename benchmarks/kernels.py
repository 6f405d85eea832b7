"""Where an image tower's time goes on this CPU, and forms of its int8 graph beside each other.

    python benchmarks/kernels.py [--model ViT-B-32] [--batch 1,8,32] [--rounds 8] [--nodes]

One transformer with seeded random weights. `--nodes` prints milliseconds by kind of operator, as
ONNX Runtime's and OpenVINO's own profilers count them (which slows what they count). Without it the
forms of `kernels_forms.py` run in turns in one process (a sleep, a warm-up, timed calls): a call's
milliseconds, at the median and at best, how many times as fast as the first form that is, at best
and by pairs of blocks, and the lowest cosine to fp32. What is best of many calls says most of
kernels where neighbours share the machine. What cannot be made here is named with the reason.
Nothing is judged: calibration takes random inputs, and no layer is kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import asked
import numpy as np
from kernels_forms import FORMS, Form, Made, fp32_tower

from clipperf import stats
from clipperf.bench import cost
from clipperf.drift import drift_of
from clipperf.engines import onnxruntime, openvino, processor
from clipperf.errors import ClipperfError
from clipperf.models import zoo
from clipperf.system import env

PROFILED = 20
"""Calls whose operators are counted."""


def main() -> None:
    """Make the forms, run them, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=asked.model, default="ViT-B-32")
    parser.add_argument("--batch", type=asked.counts, default="1,8,32")
    parser.add_argument("--rounds", type=asked.count, default=8)
    parser.add_argument("--only", help="forms whose names hold this, beside the first")
    parser.add_argument("--nodes", action="store_true", help="where the time goes, in place of it")
    options = parser.parse_args()
    spec, threads = zoo.resolve(options.model, "random"), env.available_cores()
    sets = ", ".join(processor.instruction_sets())
    print(f"{spec.id} images, {threads} threads of {env.cpu_name()} ({sets})")
    with tempfile.TemporaryDirectory() as scratch:
        made = Made(spec, fp32_tower(spec, Path(scratch)), Path(scratch), threads)
        chosen = [FORMS[0], *(f for f in FORMS[1:] if (options.only or "") in f.name)]
        if options.nodes:
            nodes(made, options.batch)
        else:
            forms(made, chosen, options.batch, options.rounds)


# --- forms ---------------------------------------------------------------------------------


def forms(made: Made, chosen: list[Form], batches: list[int], rounds: int) -> None:
    """Print a Markdown row for each form and batch."""
    runs: dict[str, Any] = {}
    for form in chosen:
        try:
            runs[form.name] = form.open(made)
        except (ClipperfError, ImportError) as exc:
            print(f"left out: {form.name}: {exc}")
    whole = onnxruntime.open_session(made.source, made.threads)
    print("\n| form | batch | ms | at best | as fast | by pairs [95 %] | cosine |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for batch in batches:
        pixels = made.pixels(batch)
        expected = whole.run(pixels)
        blocks: dict[str, list[float]] = {name: [] for name in runs}
        best = dict.fromkeys(runs, float("inf"))
        for place in range(rounds):
            for name in list(runs) if place % 2 == 0 else list(runs)[::-1]:
                samples = cost.time_block(
                    runs[name], pixels, warmup=1, calls=3, min_s=0.2, max_s=3.0, sleep_s=0.2
                )
                blocks[name].append(stats.median(samples))
                best[name] = min(best[name], *samples)
        first = blocks[chosen[0].name]
        for name, run in runs.items():
            ratio, interval = stats.paired_ratio(blocks[name], first)
            within = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
            cosine = drift_of(run(pixels), expected).min_cosine
            figures = (
                f"{1e3 * stats.median(blocks[name]):.2f}",
                f"{1e3 * best[name]:.2f}",
                f"{best[chosen[0].name] / best[name]:.2f}",
                f"{ratio:.2f}{within}",
                f"{cosine:.5f}",
            )
            print(f"| {name} | {batch} | {' | '.join(figures)} |", flush=True)


# --- where the time goes -------------------------------------------------------------------


def nodes(made: Made, batches: list[int]) -> None:
    """Print a table for each runtime and batch: milliseconds by kind of operator."""
    for batch in batches:
        pixels = made.pixels(batch)
        for name, count in (("onnx int8", by_onnxruntime), ("openvino int8", by_openvino)):
            seconds, numbers = count(made, pixels)
            total = sum(seconds.values())
            print(f"\n{name}, batch {batch}: {1e3 * total:.2f} ms in operators\n")
            print("| operator | number | ms | share |\n|---|---:|---:|---:|")
            for kind, spent in seconds.most_common():
                if spent >= 0.003 * total:
                    print(f"| {kind} | {numbers[kind]} | {1e3 * spent:.2f} | {spent / total:.1%} |")


def by_onnxruntime(made: Made, pixels: np.ndarray) -> tuple[Counter[str], Counter[str]]:
    """Seconds of a call and numbers of nodes by kind, by ONNX Runtime's profiler."""
    library = onnxruntime.library()
    options = onnxruntime.session_options(made.threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(made.folder / "profile")
    path = made.graph("dynamic", product=True)
    session = library.InferenceSession(str(path), options, providers=[onnxruntime.CPU])
    for _ in range(1 + PROFILED):
        session.run(None, {"pixel_values": pixels})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    seconds: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    first = next(event for event in events if event["name"] == "model_run")
    begin = first["ts"] + first["dur"]  # the first call sets the session up
    for event in events:
        if event["name"].endswith("kernel_time") and event["ts"] >= begin:
            kind = event["args"]["op_name"]
            seconds[kind] += event["dur"] / 1e6 / PROFILED
            numbers[kind] += 1
    return seconds, Counter({kind: n // PROFILED for kind, n in numbers.items()})


def by_openvino(made: Made, pixels: np.ndarray) -> tuple[Counter[str], Counter[str]]:
    """As `by_onnxruntime`, by OpenVINO's counters; a kind is a node's and its kernel's."""
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": made.threads,
        "PERF_COUNT": True,
        "NUM_STREAMS": 1,
    }
    settings |= {"ENABLE_CPU_PINNING": False, openvino.HINT: "f32"}
    compiled = openvino.library().Core().compile_model(made.ir(product=True), "CPU", settings)
    request = compiled.create_infer_request()
    seconds: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    request.infer({0: pixels}, share_inputs=True)  # which sets it up
    for _ in range(PROFILED):
        request.infer({0: pixels}, share_inputs=True)
        for node in request.get_profiling_info():
            if node.status == node.Status.EXECUTED:
                kind = f"{node.node_type}, {node.exec_type}"
                seconds[kind] += node.real_time.total_seconds() / PROFILED
                numbers[kind] += 1
    return seconds, Counter({kind: n // PROFILED for kind, n in numbers.items()})


if __name__ == "__main__":
    asked.run(main)
