"""The stages of `first_gpu_run`, each a process: `python tools/first_gpu_stages.py NAME ...`.

A stage writes one JSON of what it found and ends with 0; with 77 where there is nothing for it to
run here, with 1 where something is wrong, the reason being in the JSON. All use ViT-B-32 with
seeded random weights unless they say otherwise, and the usual store, so that what one stage
exports the next ones find.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from first_gpu_base import (
    BATCHES,
    COMPILED,
    COMPILED_BATCHES,
    ENOUGH,
    FLOATS,
    LARGE,
    LEAST_COSINE,
    MODEL,
    REHEARSED,
    ROOT,
    SIMULATED,
    SKIPPED,
    Data,
    Keep,
    Skipped,
    Stage,
    Wrong,
    clipperf,
    exported,
    least_cosine,
    model,
    profiled,
    sized,
    timed,
    usable,
)
from first_gpu_costs import copies, graphs, memory, products
from first_gpu_known import known
from first_gpu_rehearsal import few, rehearsed
from first_gpu_rescue import rescue
from first_gpu_serving import served, structures, tuned

from clipperf.errors import ClipperfError
from clipperf.system.files import write_json

# --- the stages ----------------------------------------------------------------------------


def environment(device: str, keep: Keep) -> Data:
    """What is installed, what is usable, what the GPU is."""
    from clipperf.inspect import doctor

    data: Data = {
        "machine": doctor.machine(),
        "runtimes": [
            {"runtime": c.runtime, "device": c.device, "usable": c.usable, "detail": c.detail}
            for c in doctor.check()
        ],
    }
    if device == "cuda":
        asked = "name,driver_version,memory.total,clocks.max.sm,power.limit"
        words = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        with contextlib.suppress(OSError):  # NVML alone may be there
            done = subprocess.run(words, capture_output=True, text=True)
            said = done.stdout.strip().split(", ")
            data["nvidia-smi"] = dict(zip(asked.split(","), said, strict=False))
    if not usable(device):
        raise Wrong(f"no runtime is usable on {device}", data)
    return data


def parity(device: str, keep: Keep) -> Data:
    """Every usable runtime and float precision against PyTorch fp32 on the CPU, both towers."""
    from clipperf.bench.inputs import make_inputs
    from clipperf.engines import contract
    from clipperf.nouns.cell import Cell, EngineRequest
    from clipperf.nouns.variant import SIDES, Side
    from clipperf.system import env, store

    without = sized((), COMPILED)
    names = [name for name in usable(device) if name not in without]
    if not names:
        raise Wrong(f"no runtime is usable on {device}")
    spec = model()
    cores = env.available_cores()
    floats = FLOATS if device == "cuda" else ("fp32",)

    def request(
        side: Side, name: str, precision: str, on: str, path: str | None, key: str = ""
    ) -> EngineRequest:
        cell = Cell(spec.id, side, name, precision, on, max(BATCHES), cores)
        return EngineRequest(cell, spec, path, key=key, cache_folder=str(store.cache_folder()))

    batches = {
        (side, rows): make_inputs(
            EngineRequest(Cell(spec.id, side, "torch", "fp32", "cpu", rows, cores), spec, None)
        )
        for side in SIDES
        for rows in BATCHES
    }
    expected: dict[tuple[Side, int], Any] = {}
    for side in SIDES:
        engine = contract.get("torch").open(request(side, "torch", "fp32", "cpu", None))
        expected |= {(side, rows): engine.run(batches[side, rows]) for rows in BATCHES}
        engine.close()
    rows_found: list[Data] = []
    for name in sorted(names, key=lambda name: name in COMPILED):
        wanted = ("fp16",) if name in COMPILED and device == "cuda" else floats
        for precision in (p for p in wanted if p in contract.get(name).precisions):
            for side in SIDES:
                found: Data = {
                    "runtime": name,
                    "precision": precision,
                    "side": side,
                    "cosine": None,
                }
                start = time.perf_counter()
                try:
                    path, key = exported(spec, side, name, precision)
                    engine = contract.get(name).open(
                        request(side, name, precision, device, path, key)
                    )
                    try:
                        sizes = COMPILED_BATCHES if name in COMPILED else BATCHES
                        pairs = [(batches[side, n], expected[side, n]) for n in sizes]
                        worst = least_cosine(engine, pairs)
                    finally:
                        engine.close()
                    found |= {"cosine": worst, "ok": worst >= LEAST_COSINE[precision]}
                    found["provider"] = getattr(engine, "provider", None)
                except (ClipperfError, RuntimeError) as exc:
                    found |= {"ok": False, "error": f"{type(exc).__name__}: {exc}"[:600]}
                found["seconds"] = round(time.perf_counter() - start, 1)
                print(found, flush=True)
                rows_found.append(found)
                keep({"rows": rows_found})
    data: Data = {"rows": rows_found}
    bad = [f"{r['runtime']} {r['precision']} {r['side']}" for r in rows_found if not r["ok"]]
    if bad:
        raise Wrong(f"wrong or failed: {', '.join(bad)}", data)
    return data


NOTHING_CHOSEN = 5
"""What pytest ends with where no test was left to run."""


def gpu_tests(device: str, keep: Keep) -> Data:
    """The tests that need a GPU; those that compile for half a minute each come last."""
    data: Data = {"closing_line": "", "lines": []}
    codes = []
    for chosen in (f"not {COMPILED[0]}", COMPILED[0]):
        words = [sys.executable, "-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider"]
        words += sized((), (str(ROOT / "tests" / "engines" / "test_tensorrt_on_gpu.py"),))
        words += ["-m", "gpu", "-k", chosen, *(["--collect-only"] if device == "cpu" else [])]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
        lines = done.stdout.strip().splitlines()
        data["lines"] += [line for line in lines if line.startswith(("SKIPPED", "FAILED", "ERROR"))]
        data["closing_line"] += f"{chosen}: {lines[-1] if lines else ''}. "
        print(done.stdout[-20_000:], done.stderr[-2000:], flush=True)
        keep(data)
        codes.append(done.returncode)
    if any(code not in (0, NOTHING_CHOSEN) for code in codes):
        raise Wrong(f"{data['closing_line']} (exit statuses {codes})", data)
    return data


def speed(device: str, keep: Keep) -> Data:
    """Images in all runtimes but the compiled one in fp16 (fp32 on a CPU), interleaved."""
    cells = _cells(device, sized("1,32", "1"), COMPILED, ("onnx", *SIMULATED))
    return profiled(*MODEL, *cells, "--tower", "image")


def compiled(device: str, keep: Keep) -> Data:
    """PyTorch eager and compiled beside the others, images, batches 1 and 32.

    Rehearsed without the compiled one, which is compiled for half a minute in each of two passes.
    """
    if COMPILED[0] not in usable(device):
        raise Skipped("torch-compile is not usable here")
    cells = _cells(device, sized("1,32", "1"), rehearsed=("torch",))
    return profiled(*MODEL, *cells, "--tower", "image")


def retrieval(device: str, keep: Keep) -> Data:
    """Zero-shot and retrieval on the bundled sample: verdicts against PyTorch fp32."""
    names = timed(device, COMPILED)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        precision = "fp16" if device == "cuda" else "fp32"
        done = clipperf(
            "eval", "clipperf-sample", "--runtime", ",".join(names), "--precision", precision,
            "--device", device, "--json", str(file),
            *(("--dataset", str(few(Path(folder) / "few"))) if REHEARSED else ()),
        )  # fmt: skip
        if done.returncode:
            raise Wrong(done.stderr.strip()[-400:])
        shown = subprocess.run(
            [sys.executable, "-m", "clipperf", "report", str(file), "--format", "md"],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        if shown.returncode:
            raise Wrong(shown.stderr.strip()[-400:])
    return {"markdown": shown.stdout.replace(str(file), file.name)}


def texts(device: str, keep: Keep) -> Data:
    """Texts by their length: what padding to the whole context would cost."""
    return profiled(
        *MODEL, *_cells(device, sized("32", "1"), COMPILED),
        "--tower", "text", "--tokens", sized("8,16,32,77", "8"),
    )  # fmt: skip


def batches(device: str, keep: Keep) -> Data:
    """Batches from 1 to 64."""
    return profiled(
        *MODEL, *_cells(device, sized("1,2,4,8,16,32,64", "2"), COMPILED), "--tower", "image"
    )


def large(device: str, keep: Keep) -> Data:
    """ViT-L-14's image tower at batches 1 and 32."""
    words = _cells(device, sized("1,32", "1") if device == "cuda" else "1", COMPILED)
    return profiled(*LARGE, *words, "--tower", "image")


def eight_bits(device: str, keep: Keep) -> Data:
    """int8 and fp8 on runtimes that take them."""
    from clipperf.engines import contract

    pairs = [
        (name, precision)
        for name in timed(device)
        for precision in sized(("int8", "fp8"), ("fp8",))
        if precision in contract.get(name).precisions
    ]
    if not pairs:
        raise Skipped(f"no usable runtime on {device} takes int8 or fp8")
    rows: list[Data] = []
    for precision in dict.fromkeys(precision for _, precision in pairs):
        names = ",".join(name for name, p in pairs if p == precision)
        words = (
            "--runtime",
            names,
            "--precision",
            precision,
            "--device",
            device,
            "--batch",
            sized("1,32", "1"),
        )
        rows += profiled(*MODEL, *words, *sized((), ("--tower", "image")))["rows"]
        keep({"rows": rows})
    return {"rows": rows}


def _cells(
    device: str,
    batch: str,
    without: Sequence[str] = (),
    rehearsed: Sequence[str] = ENOUGH,
) -> tuple[str, ...]:
    precision = sized("fp16", "fp32") if device == "cuda" else "fp32"
    names = ",".join(timed(device, without, rehearsed))
    return ("--runtime", names, "--precision", precision, "--device", device, "--batch", batch)


STAGES = (
    Stage("environment", "What is there", 60, environment),
    Stage("parity", "Right vectors from every runtime", 240, parity, shared=True),
    Stage(
        "structures", "Every structure of open_clip's catalogue", 240, structures, 60, shared=True
    ),
    Stage("retrieval", "Zero-shot and retrieval on the sample", 180, retrieval, shared=True),
    Stage("speed", "Images of ViT-B-32 on every runtime, interleaved", 240, speed, 30),
    Stage("graphs", "CUDA graphs of ONNX Runtime's", 90, graphs),
    Stage("memory", "The VRAM meter against a known gibibyte", 60, memory),
    Stage("known", "Phases and VRAM against costs that are known before", 90, known),
    Stage("products", "The rate of matrix products", 60, products),
    Stage("served", "clipperf.load: self-test, threads, no memory, many calls", 150, served),
    Stage("rescue", "A tower that fp16 does not hold, with what is kept in fp32", 90, rescue),
    Stage("gpu-tests", "The tests that need a GPU", 180, gpu_tests),
    Stage("copies", "Ways to copy images in", 60, copies),
    Stage("compiled", "PyTorch eager and compiled beside the others", 180, compiled, 40),
    Stage("texts", "Texts by their length", 120, texts, 30),
    Stage("eight-bits", "int8 and fp8", 240, eight_bits, 30),
    Stage("large", "ViT-L-14", 180, large, 40),
    Stage("tuned", "The settings that tune chooses", 120, tuned, 60),
    Stage("batches", "Batches from 1 to 64", 180, batches, 40),
)
"""By worth: what comes late is what a short time leaves out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage and write what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=[stage.name for stage in STAGES])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--answer", type=Path, required=True)
    options = parser.parse_args(arguments)
    stage = next(stage for stage in STAGES if stage.name == options.stage)
    code, data, kept = 0, {}, {}

    def keep(found: Data) -> None:
        kept.update(found)
        write_json(options.answer, found)

    try:
        on = options.device
        with rehearsed(stage.name, on) if REHEARSED else contextlib.nullcontext(on) as on:
            data = stage.run(on, keep)
    except Skipped as exc:
        code, data = SKIPPED, {"reason": str(exc)}
    except Wrong as exc:  # the rehearsal's own comes when the stage has ended
        code, data = 1, {**data, **exc.data, "reason": str(exc)}
    except ClipperfError as exc:
        code, data = 1, {**kept, "reason": f"{type(exc).__name__}: {exc}"}
    except Exception as exc:  # noqa: BLE001 - whatever it is, the next stages go on, and it is said
        traceback.print_exc()
        code, data = 1, {**kept, "reason": f"{type(exc).__name__}: {exc}"}
    write_json(options.answer, data)
    return code


if __name__ == "__main__":
    sys.exit(main())
