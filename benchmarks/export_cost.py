"""Time and memory of `clipperf export`, as a whole command: the table in docs/performance.md.

    python benchmarks/export_cost.py                      # ViT-B-32 and ViT-H-14, seeded weights
    python benchmarks/export_cost.py RN50 --checkpoint    # through a checkpoint file on disk

Each model is exported into an empty store, then with other weights (of the same architecture, so
that its graphs are there already), then again as it is. Peak RSS is the largest sum over the
command's processes, sampled every 20 ms, beside the larger tower's fp32 weights; anonymous memory
is the part of it that is no file's pages. With --checkpoint the weights are first written to
.safetensors files and exported from there, memory-mapped, as users' own weights are.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asked
import psutil

from clipperf import units
from clipperf.models import zoo
from clipperf.nouns.variant import SIDES
from clipperf.system import store

SAMPLE_EVERY_S = 0.02


def main() -> None:
    """Export each model into an empty store and print one Markdown row for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=asked.model, default=["ViT-B-32", "ViT-H-14"])
    parser.add_argument("--checkpoint", action="store_true", help="go through a file on disk")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    print(
        "| model | weights | export s | other weights s | repeat s | peak RSS MiB | anonymous MiB "
        "| larger tower MiB | ratio |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    store.home().parent.mkdir(parents=True, exist_ok=True)
    for model in options.models:
        with tempfile.TemporaryDirectory(dir=store.home().parent) as scratch:
            print(row(model, Path(scratch), options.checkpoint, options.precision), flush=True)


def row(model: str, scratch: Path, checkpoint: bool, precision: str) -> str:
    """Measure one model."""
    spec = zoo.resolve(model, "random")
    home = {**os.environ, "CLIPPERF_HOME": str(scratch / "home")}
    runs = []
    for seed in (0, 1, 1):
        pretrained = f"random:{seed}"
        if checkpoint:
            pretrained = str(write_checkpoint(model, scratch, seed))
        command = [
            *(sys.executable, "-m", "clipperf", "export", model, "--quiet"),
            *("--pretrained", pretrained, "--precision", precision),
        ]
        runs.append(run(command, home))
    (export_s, *_), (other_s, *_), (repeat_s, *_) = runs
    peak_bytes, anonymous_bytes = (max(found) for found in list(zip(*runs, strict=True))[1:])
    larger_bytes = 4 * max(map(spec.parameters, SIDES))
    source = "checkpoint file" if checkpoint else "seeded random"
    return (
        f"| {model} {precision} | {source} | {export_s:.1f} | {other_s:.1f} | {repeat_s:.2f} | "
        f"{units.mib(peak_bytes)} | {units.mib(anonymous_bytes)} | {units.mib(larger_bytes)} | "
        f"{peak_bytes / larger_bytes:.2f} |"
    )


def run(command: list[str], environment: dict[str, str]) -> tuple[float, int, int]:
    """Seconds of a command, and the largest sums of its processes' RSS and RssAnon in bytes."""
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as child:
        top, peak, anonymous = psutil.Process(child.pid), 0, 0
        while child.poll() is None:
            rss, anon = tree_bytes(top)
            peak, anonymous = max(peak, rss), max(anonymous, anon)
            time.sleep(SAMPLE_EVERY_S)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, peak, anonymous


def tree_bytes(top: psutil.Process) -> tuple[int, int]:
    """RSS and RssAnon of a process and all below it; pages that they share count more than once."""
    rss = anonymous = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [top, *top.children(recursive=True)]:
            memory = process.memory_info()
            rss += memory.rss
            anonymous += memory.rss - memory.shared  # Linux: shared is RssFile and RssShmem
    return rss, anonymous


def write_checkpoint(model: str, folder: Path, seed: int) -> Path:
    """Seeded weights of both towers as a .safetensors file."""
    path = folder / f"{model}-{seed}.safetensors"
    if path.exists():
        return path
    code = (
        "import sys; from clipperf.models import open_clip, weights, zoo;"
        "from clipperf.models.family import family_of;"
        "from safetensors.torch import save_file;"
        "spec = zoo.resolve(sys.argv[1], 'random');"
        "module = open_clip.skeleton(family_of(spec).config(spec));"
        "weights.fill_random(module, '', int(sys.argv[3]));"
        "save_file({k: v.contiguous() for k, v in module.state_dict().items()}, sys.argv[2])"
    )
    # In a process of its own, so that its memory is not there while the export is measured.
    subprocess.run([sys.executable, "-c", code, model, str(path), str(seed)], check=True)
    return path


if __name__ == "__main__":
    asked.run(main)
