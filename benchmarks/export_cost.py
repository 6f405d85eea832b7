"""Time and memory of `clipperf export`, as a whole command: the table in docs/performance.md.

    python benchmarks/export_cost.py                      # ViT-B-32 and ViT-H-14, seeded weights
    python benchmarks/export_cost.py RN50 --checkpoint    # through a checkpoint file on disk

Peak RSS is the largest sum over the command's processes, sampled every 20 ms, beside the larger
tower's fp32 weights. With --checkpoint the weights are first written to a .safetensors file and
exported from there, memory-mapped, as users' own weights are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from clipperf import store, units
from clipperf.models import zoo

SAMPLE_EVERY_S = 0.02


def main() -> None:
    """Export each model into an empty store and print one Markdown row for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["ViT-B-32", "ViT-H-14"])
    parser.add_argument("--checkpoint", action="store_true", help="go through a file on disk")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    print("| model | weights | export s | repeat s | peak RSS MiB | larger tower MiB | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for model in options.models:
        with tempfile.TemporaryDirectory(dir=store.home().parent) as scratch:
            print(row(model, Path(scratch), options.checkpoint, options.precision), flush=True)


def row(model: str, scratch: Path, checkpoint: bool, precision: str) -> str:
    """Measure one model."""
    pretrained = str(write_checkpoint(model, scratch)) if checkpoint else "random"
    spec = zoo.resolve(model, pretrained)
    command = [
        *(sys.executable, "-m", "clipperf", "export", model, "--quiet"),
        *("--pretrained", pretrained, "--precision", precision),
    ]
    home = {**os.environ, "CLIPPERF_HOME": str(scratch / "home")}
    export_s, peak_bytes = run(command, home)
    repeat_s, _ = run(command, home)
    larger_bytes = 4 * max(spec.image_parameters or 0, spec.text_parameters or 0)
    source = "checkpoint file" if checkpoint else "seeded random"
    return (
        f"| {model} {precision} | {source} | {export_s:.1f} | {repeat_s:.2f} | "
        f"{units.mib(peak_bytes)} | {units.mib(larger_bytes)} | {peak_bytes / larger_bytes:.2f} |"
    )


def run(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """Seconds of a command, and the largest sum of its processes' RSS in bytes."""
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as child:
        top, peak = psutil.Process(child.pid), 0
        while child.poll() is None:
            peak = max(peak, tree_rss_bytes(top))
            time.sleep(SAMPLE_EVERY_S)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, peak


def tree_rss_bytes(top: psutil.Process) -> int:
    """RSS of a process and all below it; pages that they share count more than once."""
    total = 0
    try:
        for process in [top, *top.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def write_checkpoint(model: str, folder: Path) -> Path:
    """Seeded weights of both towers as a .safetensors file."""
    path = folder / f"{model}.safetensors"
    code = (
        "import sys; from clipperf.models import open_clip, weights, zoo;"
        "from safetensors.torch import save_file;"
        "spec = zoo.resolve(sys.argv[1], 'random');"
        "module = open_clip.skeleton(open_clip.model_config(spec));"
        "weights.fill_random(module, '', 0);"
        "save_file({k: v.contiguous() for k, v in module.state_dict().items()}, sys.argv[2])"
    )
    # In a process of its own, so that its memory is not there while the export is measured.
    subprocess.run([sys.executable, "-c", code, model, str(path)], check=True)
    return path


if __name__ == "__main__":
    main()
