"""How long a tower takes to open, beside reading its bytes.

    python benchmarks/load.py                     # ViT-B-32 with seeded weights, and the sample
    python benchmarks/load.py --model RN50 --rounds 9
    python benchmarks/load.py --split             # what the time goes into, see `WAYS`

For each tower three kinds of fresh processes take turns: one reads the artifact's files, one opens
them with nothing kept from before ("first"), one with what the runtime keeps in the store's cache
("again"; the same where a runtime keeps nothing). One untimed turn before fills that cache and the
page cache, so all of them read from RAM. Opening ends when the tower can run; importing the
runtime and the first run are apart. Medians; the ratio is that of the second kind of opening to
reading, turn by turn. CPU seconds are those of all threads, which other programs disturb least.
RAM is that of the last process, once it has run one input and eight: its peak over the bytes of the
tower, and what is resident then, pages of files (which the kernel can take back) apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asked
import numpy as np

from clipperf import units
from clipperf.bench import cost, prepare
from clipperf.bench.inputs import make_inputs
from clipperf.engines import contract, onnxruntime, openvino, processor
from clipperf.errors import ClipperfError
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.variant import SIDES
from clipperf.serialize import from_json, to_json
from clipperf.system import store
from clipperf.system.env import available_cores
from clipperf.system.processes import status_bytes

CHOICES = (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "int8w"))
"""OpenVINO's int8 passes its gate on trained weights alone."""
CHUNK_BYTES = 2**20
PEAK_INPUTS = 8

WAYS = {
    "onnx": ("usual", "no new layout", "no graph optimisation", "neither"),
    "openvino": ("usual", "compiled", "kept without weights", "kept with weights"),
}
"""How `--split` opens a tower. ONNX Runtime: without laying out weights anew for its kernels,
without changing the graph, without both. OpenVINO: compiled from its own mapping of the file, and
from either kind of its cache.
"""


def main() -> None:
    """Print one Markdown row for each tower, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", type=asked.model)
    parser.add_argument("--rounds", type=asked.count, default=7)
    parser.add_argument("--split", action="store_true", help="by parts of the work")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    print(f"instruction sets: {', '.join(processor.instruction_sets())}\n")
    models = options.model or ["ViT-B-32", "clipperf-sample"]
    if options.split:
        print(
            "| model | tower | runtime | opened | ms | CPU ms | peak MiB |\n"
            + "|---" * 4
            + "|---:" * 3
            + "|"
        )
        for_each(models, options.rounds, split_rows)
        return
    print(
        "| model | tower | runtime | MiB | read ms | first ms | again ms | again / read "
        "| read CPU ms | first CPU ms | again CPU ms | import ms | first run ms "
        "| load peak MiB | peak over tower MB | anonymous MiB | files MiB |\n"
        + "|---" * 3
        + "|---:" * 14
        + "|"
    )
    for_each(models, options.rounds, row)


def for_each(models: list[str], rounds: int, print_rows: Any) -> None:
    """Print the rows of every tower."""
    for model in models:
        spec = zoo.resolve(model, None if model == "clipperf-sample" else "random")
        for side in SIDES:
            for runtime, precision in CHOICES:
                name = f"| {model} | {side} | {runtime} {precision}"
                cell = Cell(spec.id, side, runtime, precision, "cpu", 1, available_cores())
                try:
                    request, size = prepare.engine_request(cell, spec, lambda stage: None)
                except ClipperfError as exc:
                    print(f"{name} | no artifact: {exc} |")
                    continue
                print(print_rows(name, request, size, rounds), flush=True)


def row(name: str, request: EngineRequest, size: int, rounds: int) -> str:
    """Measure one tower of `size` bytes."""
    jobs = {
        "read": {"files": [str(path) for path in tower_files(request)]},
        "first": {"request": to_json(request) | {"cache_folder": None}},
        "again": {"request": to_json(request)},
    }
    turns = [{name: run(job) for name, job in jobs.items()} for _ in range(rounds + 1)][1:]

    def median(kind: str, what: str) -> float:
        return statistics.median(turn[kind][what] for turn in turns)

    ratio = statistics.median(turn["again"]["wall_s"] / turn["read"]["wall_s"] for turn in turns)
    seconds = [median(kind, "wall_s") for kind in jobs]
    cpu = [median(kind, "cpu_s") for kind in jobs]
    rest = [median("again", what) for what in ("import_s", "first_run_s")]
    load_peak, peak, *resident = [
        round(median("again", what))
        for what in ("load_peak_bytes", "peak_bytes", "anonymous_bytes", "file_bytes")
    ]
    return (
        " | ".join(
            [
                f"{name} | {units.mib(size)}",
                *(f"{1e3 * value:.0f}" for value in seconds),
                units.ratio(ratio),
                *(f"{1e3 * value:.0f}" for value in (*cpu, *rest)),
                units.mib(load_peak),
                f"{(peak - size) / 1e6:+.0f}",
                *(units.mib(value) for value in resident),
            ]
        )
        + " |"
    )


def split_rows(name: str, request: EngineRequest, size: int, rounds: int) -> str:
    """One row for each way to open a tower, and one for reading it; in turns."""
    with tempfile.TemporaryDirectory() as folder:
        jobs: dict[str, dict[str, Any]] = {
            "read": {"files": [str(path) for path in tower_files(request)]},
            **{
                way: {"request": to_json(request), "way": way, "folder": f"{folder}/{way}"}
                for way in WAYS[request.cell.runtime]
            },
        }
        turns = [{way: run(job) for way, job in jobs.items()} for _ in range(rounds + 1)][1:]
    lines = []
    for way in jobs:
        wall, cpu, peak = (
            statistics.median(turn[way].get(what, 0) for turn in turns)
            for what in ("wall_s", "cpu_s", "load_peak_bytes")
        )
        peak_text = units.mib(round(peak)) if peak else "-"
        lines.append(f"{name} | {way} | {1e3 * wall:.0f} | {1e3 * cpu:.0f} | {peak_text} |")
    return "\n".join(lines)


def tower_files(request: EngineRequest) -> list[Path]:
    """Every file of the request's tower."""
    path = Path(str(request.path))
    folder = path.parent.parent
    tower = store.read_manifest(folder).tower(request.cell.side)
    assert tower is not None
    return [folder / name for name in tower.files]


def run(job: dict[str, Any]) -> dict[str, float]:
    """One fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return dict(json.loads(done.stdout))


def child(job: dict[str, Any]) -> dict[str, float]:
    """Read files or open a tower; seconds and bytes by name."""
    if "files" in job:
        cpu_s = time.process_time()
        _, wall_s = cost.timed(lambda: read(job["files"]))
        return {"wall_s": wall_s, "cpu_s": time.process_time() - cpu_s}
    request = from_json(EngineRequest, job["request"])
    library = {"onnx": "onnxruntime"}.get(request.cell.runtime, request.cell.runtime)
    _, import_s = cost.timed(lambda: __import__(library))
    if job.get("way", "usual") != "usual":
        opened = {"onnx": part_of_onnx, "openvino": part_of_openvino}[request.cell.runtime]
        return seconds_of(lambda: opened(request, job["way"], job["folder"]))
    runtime = contract.get(request.cell.runtime)
    engines = []
    times = seconds_of(lambda: engines.append(runtime.open(request)))
    if "way" in job:
        return times
    engine = engines[0]
    inputs = make_inputs(request)
    _, first_run_s = cost.timed(lambda: engine.run(inputs))
    engine.run(np.repeat(inputs, PEAK_INPUTS, axis=0))
    return {
        **times,
        "import_s": import_s,
        "first_run_s": first_run_s,
        "peak_bytes": status_bytes("VmHWM") or 0,
        "anonymous_bytes": status_bytes("RssAnon") or 0,
        "file_bytes": status_bytes("RssFile") or 0,
    }


def seconds_of(work: Any) -> dict[str, float]:
    """What a call took, and the peak of this process's RAM behind it."""
    cpu_s = time.process_time()
    _, wall_s = cost.timed(work)
    cpu_s = time.process_time() - cpu_s
    return {"wall_s": wall_s, "cpu_s": cpu_s, "load_peak_bytes": status_bytes("VmHWM") or 0}


def part_of_onnx(request: EngineRequest, way: str, folder: str) -> None:
    """Make a session without one part of the work; see `WAYS`."""
    library = onnxruntime.library()
    options = onnxruntime.session_options(request.cell.threads)
    if way in ("no new layout", "neither"):
        options.add_session_config_entry("session.disable_prepacking", "1")
    if way in ("no graph optimisation", "neither"):
        options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
    library.InferenceSession(str(request.path), options, providers=[onnxruntime.CPU])


def part_of_openvino(request: EngineRequest, way: str, folder: str) -> None:
    """Compile a tower, or take it from OpenVINO's cache in `folder`; see `WAYS`."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": request.cell.threads,
        "ENABLE_CPU_PINNING": False,
        openvino.HINT: openvino.hint_of(request.cell.precision),
    }
    if way != "compiled":
        mode = "OPTIMIZE_SPEED" if way == "kept with weights" else "OPTIMIZE_SIZE"
        settings |= {"CACHE_DIR": folder, "CACHE_MODE": mode}
    compiled = openvino.library().Core().compile_model(request.path, "CPU", settings)
    compiled.create_infer_request()


def read(names: list[str]) -> None:
    """Read files once, into the same memory over and over."""
    buffer = bytearray(CHUNK_BYTES)
    for name in names:
        with Path(name).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


if __name__ == "__main__":
    asked.run(main)
