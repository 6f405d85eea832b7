"""TensorRT engines of every CLIP-as-service model: the table in docs/tensorrt.md.

    python benchmarks/engine_builds.py                          # fp16, for sm89
    python benchmarks/engine_builds.py --model RN50 --target sm86,sm89,sm120

Both towers of each model are built by `clipperf export --runtime trt-rtx`, with seeded random
weights: neither build time nor size depends on their values. Models that differ in their weights
alone share a row. M-CLIP models are no open_clip models and are left out. Seconds and peak RSS
are those of the process that builds the engine from the ONNX file, which is written before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from clipperf import units
from clipperf.models import catalog, open_clip, published, zoo


def main() -> None:
    """Build every structure and print one Markdown row for each tower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="only these structures")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--target", default="sm89")
    parser.add_argument("--runtime", default="trt-rtx")
    options = parser.parse_args()
    print(f"{options.runtime}, {options.precision}, {options.target}\n")
    print("| structure | tower | build s | plan MB | peak RSS MB | RSS / plan | models |")
    print("|---|---|---:|---:|---:|---:|---|")
    for structure, models in structures().items():
        if options.model and structure not in options.model:
            continue
        for tower in ("image", "text"):
            built = build(structure, tower, options)
            size, peak = built["disk_bytes"], built["peak_rss_bytes"]
            print(
                f"| {structure} | {tower} | {built['build_s']:.1f} | {size / 1e6:.0f} | "
                f"{peak / 1e6:.0f} | {units.ratio(peak / size)} | {', '.join(models)} |",
                flush=True,
            )


def structures() -> dict[str, list[str]]:
    """The tags of the CLIP-as-service models by architecture and activation."""
    found = defaultdict(list)
    for row in published.basic_statistics():
        if row.alias.startswith("M-CLIP"):
            continue
        spec = zoo.resolve(row.alias)
        name = spec.architecture
        if open_clip.model_config(spec).get("quick_gelu") and not name.endswith("-quickgelu"):
            name += "-quickgelu"
        found[name if has(name) else spec.architecture].append(spec.pretrained)
    return dict(found)


def has(name: str) -> bool:
    """Whether open_clip has this architecture."""
    return any(entry.architecture == name for entry in catalog.entries())


def build(structure: str, tower: str, options: argparse.Namespace) -> dict[str, float]:
    """Export one tower into an empty store; returns its record in the manifest."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "clipperf", "export", structure, "--json", "--quiet"),
                *("--pretrained", "random", "--tower", tower, "--runtime", options.runtime),
                *("--precision", options.precision, "--target", options.target),
            ],
            env={**os.environ, "CLIPPERF_HOME": scratch},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        (record,) = json.loads(done.stdout)["manifest"]["towers"]
        plan = Path(json.loads(done.stdout)["folder"]) / record["path"]
        return {**record, "disk_bytes": plan.stat().st_size}


if __name__ == "__main__":
    main()
