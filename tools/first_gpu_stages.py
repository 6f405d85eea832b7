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
import traceback
from collections.abc import Sequence
from pathlib import Path

from first_gpu_base import (
    COMPILED,
    ENGINES,
    ENOUGH,
    LARGE,
    MODEL,
    REHEARSED,
    ROOT,
    SKIPPED,
    Data,
    Keep,
    Skipped,
    Stage,
    Wrong,
    clipperf,
    profiled,
    sized,
    timed,
    usable,
)
from first_gpu_costs import copies, graphs, memory, products
from first_gpu_known import arithmetic, known
from first_gpu_rehearsal import few, rehearsed
from first_gpu_rescue import rescue
from first_gpu_serving import served, structures, tuned
from first_gpu_vectors import judged_vectors, parity, precisions

from clipperf.errors import ClipperfError
from clipperf.nouns.variant import SIDES
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
    cells = _cells(device, sized("1,32", "1"), COMPILED, ("onnx", *ENGINES))
    return profiled(*MODEL, *cells, "--tower", "image", keep=keep)


def compiled(device: str, keep: Keep) -> Data:
    """PyTorch eager and compiled beside the others, images, batches 1 and 32.

    Rehearsed without the compiled one, which is compiled for half a minute in each of two passes.
    """
    if COMPILED[0] not in usable(device):
        raise Skipped("torch-compile is not usable here")
    cells = _cells(device, sized("1,32", "1"), rehearsed=("torch",))
    return profiled(*MODEL, *cells, "--tower", "image", keep=keep)


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
        "--tower", "text", "--tokens", sized("8,16,32,77", "8"), keep=keep,
    )  # fmt: skip


def batches(device: str, keep: Keep) -> Data:
    """Batches from 1 to 64 in TensorRT, where it is there; each cell takes seconds."""
    names = usable(device)
    without = [name for name in names if name not in ENGINES] if {*ENGINES} & {*names} else ()
    cells = _cells(device, sized("1,2,4,8,16,32,64", "2"), [*COMPILED, *without])
    return profiled(*MODEL, *cells, "--tower", "image", keep=keep)


def large(device: str, keep: Keep) -> Data:
    """ViT-L-14's image tower at batches 1 and 32, with what it computes for each."""
    from clipperf.models import zoo

    words = _cells(device, sized("1,32", "1") if device == "cuda" else "1", COMPILED)
    spec = zoo.resolve(LARGE[0], pretrained=LARGE[2] if len(LARGE) > 1 else None)
    flop = arithmetic(spec)[1]
    data: Data = {"flop": flop}
    try:
        return data | profiled(
            *LARGE, *words, "--tower", "image", keep=lambda rows: keep(data | rows)
        )
    except Wrong as exc:
        raise Wrong(str(exc), data | exc.data) from exc


def eight_bits(device: str, keep: Keep) -> Data:
    """int8 and fp8 on runtimes that take them: vectors of their engines, then times beside fp16."""
    from clipperf.engines import contract

    names = timed(device)
    found = {
        precision: [name for name in names if precision in contract.get(name).precisions]
        for precision in sized(("int8", "fp8"), ("fp8",))
    }
    if not any(found.values()):
        raise Skipped(f"no usable runtime on {device} takes int8 or fp8")
    data: Data = {"vectors": [], "rows": []}
    sides = sized(SIDES, SIDES[:1])
    for precision, takers in found.items():
        for name in takers:
            data["vectors"] += judged_vectors(name, sides, precision, device)
            keep(data)
    beside = sized(("fp16",), ()) if device == "cuda" else ("fp32",)
    takers = list(dict.fromkeys(name for takers in found.values() for name in takers))
    asked = ",".join([*beside, *(precision for precision, takers in found.items() if takers)])
    try:
        data |= profiled(
            *MODEL, "--runtime", ",".join(takers), "--precision", asked, "--device", device,
            "--batch", sized("1,32", "1"), "--tower", "image",
            keep=lambda rows: keep(data | rows),
        )  # fmt: skip
    except Wrong as exc:
        raise Wrong(str(exc), data | exc.data) from exc
    bad = [f"{v['runtime']} {v['precision']} {v['side']}" for v in data["vectors"] if not v["ok"]]
    if bad:
        raise Wrong(f"wrong or failed: {', '.join(bad)}", data)
    return data


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
    Stage("parity", "Right vectors of ViT-B-32 from every runtime, in fp16", 200, parity),
    Stage("gpu-tests", "The tests that need a GPU", 150, gpu_tests),
    Stage("memory", "The VRAM meter against a known gibibyte", 60, memory),
    Stage("known", "Phases and VRAM against costs that are known before", 90, known),
    Stage("products", "The rate of matrix products", 60, products),
    Stage("rescue", "A tower that fp16 does not hold, with what is kept in fp32", 90, rescue),
    Stage("eight-bits", "int8 and fp8 beside fp16, and their vectors", 180, eight_bits, 30),
    Stage("batches", "Batches from 1 to 64", 150, batches, 40),
    Stage("compiled", "TensorRT and others beside PyTorch eager and compiled", 180, compiled, 40),
    Stage("large", "ViT-L-14", 150, large, 40),
    Stage("retrieval", "Zero-shot and retrieval on the sample", 180, retrieval, 40),
    Stage("texts", "Texts by their length", 120, texts, 30),
    Stage("served", "clipperf.load: self-test, threads, no memory, many calls", 200, served, 60),
    Stage("graphs", "CUDA graphs of ONNX Runtime's", 90, graphs),
    Stage("precisions", "Right vectors in the other precisions", 240, precisions, 40),
    Stage("structures", "Every structure of open_clip's catalogue", 240, structures, 60),
    Stage("copies", "Ways to copy images in", 60, copies),
    Stage("tuned", "The settings that tune chooses", 120, tuned, 60),
    Stage("speed", "Images of ViT-B-32 on every runtime, interleaved", 240, speed, 30),
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
        code, data = 1, {**kept, **data, **exc.data, "reason": str(exc)}
    except ClipperfError as exc:
        code, data = 1, {**kept, "reason": f"{type(exc).__name__}: {exc}"}
    except Exception as exc:  # noqa: BLE001 - whatever it is, the next stages go on, and it is said
        traceback.print_exc()
        code, data = 1, {**kept, "reason": f"{type(exc).__name__}: {exc}"}
    write_json(options.answer, data)
    return code


if __name__ == "__main__":
    sys.exit(main())
