"""TensorRT engines of every CLIP-as-service model: the table in docs/tensorrt.md.

    python benchmarks/engine_builds.py                          # fp16, for sm89
    python benchmarks/engine_builds.py --model RN50-quickgelu --target sm86,sm89,sm120

Both towers of each model are built as `clipperf export --runtime trt-rtx` does it, with seeded
random weights: neither build time nor size depends on their values, and there is nothing to check
them against, so PyTorch's reference is left out. Models that differ in their weights alone share a
row. M-CLIP models are no open_clip models and are left out. Seconds and peak RSS are those of the
process that builds the engine from the ONNX file, which is written before.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import asked

from clipperf import units
from clipperf.engines.profiles import token_range
from clipperf.export.jobs.plan import build_engine
from clipperf.export.plan_options import EngineSettings
from clipperf.graph import trace as onnx_export
from clipperf.models import catalog, published, zoo
from clipperf.models.families import open_clip
from clipperf.nouns.artifact import PlanInfo
from clipperf.nouns.variant import SIDES, Side, Variant


def main() -> None:
    """Build every structure and print one Markdown row for each tower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="only these structures")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--target", default="sm89")
    parser.add_argument("--runtime", default="trt-rtx")
    options = parser.parse_args()
    print(f"{options.runtime}, {options.precision}, {options.target}\n")
    print("| structure | tower | build s | plan MB | peak RSS MB | RSS / plan | weights |")
    print("|---|---|---:|---:|---:|---:|---|")
    for structure, tags in structures().items():
        if options.model and structure not in options.model:
            continue
        for side in SIDES:
            with tempfile.TemporaryDirectory() as scratch:
                built = build(structure, side, options, Path(scratch))
            size, peak = built.plan_bytes, built.peak_rss_bytes or 0
            print(
                f"| {structure} | {side} | {built.build_s:.1f} | {size / 1e6:.0f} | "
                f"{peak / 1e6:.0f} | {units.ratio(peak / size)} | {', '.join(tags)} |",
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


def build(structure: str, side: Side, options: argparse.Namespace, scratch: Path) -> PlanInfo:
    """Write one tower as ONNX and build its engine in another process; returns its sidecar."""
    spec = zoo.resolve(structure, "random")
    tower = open_clip.build_tower(spec, side, normalize=False)
    onnx_export.export_onnx(tower, scratch / "model.onnx", options.precision)
    given, produced = onnx_export.io_specs(tower)
    del tower
    settings = EngineSettings(
        tokens=token_range(spec.context_tokens), targets=tuple(options.target.split(","))
    )
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(
            build_engine,
            scratch / "model.onnx",
            scratch / "model.plan",
            Variant(options.runtime, options.precision, settings=settings),
            model_id=spec.id,
            side=side,
            inputs=(given,),
            outputs=(produced,),
            digest="not taken",
        ).result()


if __name__ == "__main__":
    asked.run(main)
