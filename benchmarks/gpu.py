"""What a GPU gains: PyTorch against every GPU runtime that works here, on three sizes of CLIP.

    python benchmarks/gpu.py                              # ViT-B-32, ViT-L-14, ViT-H-14 in fp16
    python benchmarks/gpu.py --models ViT-B-32 --batch 32

Seeded random weights, interleaved by `clipperf profile`. The result files go into --out (by
default results/), with the tables as Markdown beside them. `--hopper` tries instead whether a
plan of TensorRT for RTX runs on the present GPU although that is none of its targets, and writes
down what it says.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from clipperf.engines import contract
from clipperf.engines.tensorrt.flavours import gpu_kind
from clipperf.errors import ClipperfError
from clipperf.export.make import make
from clipperf.inspect import doctor
from clipperf.models import zoo
from clipperf.nouns.variant import Variant
from clipperf.report.build import build_report
from clipperf.report.format import render
from clipperf.system import env, store

MODELS = ("ViT-B-32", "ViT-L-14", "ViT-H-14")


def main() -> int:
    """Profile each model over the usable GPU runtimes, or try the unsupported GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", default="1,8,32,128")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--hopper", action="store_true", help="only try RTX plans on this GPU")
    options = parser.parse_args()
    gpu = env.gpu()
    if gpu is None:
        print("no NVIDIA GPU or driver here; clipperf doctor says what is missing")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-").lower()
    if options.hopper:
        (options.out / f"{name}-rtx-plan.txt").write_text(try_rtx_plan(), encoding="utf-8")
        return 0
    runtimes = usable()
    print(f"{gpu.name}: {', '.join(runtimes)}", flush=True)
    codes = []
    for model in options.models:
        target = options.out / f"{name}-{model}-{options.precision}.json"
        target.unlink(missing_ok=True)  # a failed run must not show an older one's figures
        words = [sys.executable, "-m", "clipperf", "profile", model, "--pretrained", "random"]
        words += ["--device", "cuda", "--runtime", ",".join(runtimes), "--batch", options.batch]
        words += ["--precision", options.precision, "--json", str(target)]
        codes.append(subprocess.run([*words, *(["--quick"] if options.quick else [])]).returncode)
        try:
            report = render(build_report([store.read_result(target)], ()), "md")
        except ClipperfError as exc:  # the next model may go through
            print(f"{model}: {exc}", file=sys.stderr, flush=True)
            continue
        target.with_suffix(".md").write_text(report, encoding="utf-8")
    return int(any(codes))  # a signal that ended one is less than 0


def usable() -> list[str]:
    """The runtimes that work on this machine's GPU; prints why others do not."""
    found = []
    for check in doctor.check():
        if check.device != "cuda":
            continue
        if check.usable:
            found.append(check.runtime)
        else:
            print(f"without {check.runtime}: {check.detail}", flush=True)
    return found


def try_rtx_plan() -> str:
    """Build the sample for the present GPU with TensorRT for RTX, run it, and say what happened."""
    lines = [f"GPU kind {gpu_kind()}, {env.gpu()}"]
    try:
        variant = Variant("trt-rtx", "fp16")
        exported = make(zoo.resolve("clipperf-sample"), ("image",), variant)
        lines.append(f"built and run: {exported.manifest.towers[0].parity}")
    except ClipperfError as exc:
        lines.append(f"{type(exc).__name__}: {exc}")
    lines.append(f"runtime: {contract.get('trt-rtx').availability('cuda')}")
    print("\n".join(lines))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
