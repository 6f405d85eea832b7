"""`clipperf embed` beside the engine alone and beside `encode_images`: images a second, in turns.

    python benchmarks/embed.py --model ViT-B-32 --pretrained random
    python benchmarks/embed.py --folder exported --files photos --rounds 5

Every round takes each way once, in one process and with one engine: "engine" runs batches of
pixels that are ready; "encode_images" decodes and embeds files as a served model does; "embed"
does so, too, from listing the folder to shards that are fsynced and have a record. "shared" is
what the engine would reach if the pixels' own time came out of the same cores and all of them
were busy: no way from files can be faster than that on a machine without a GPU. Ratios are taken
round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import asked
import numpy as np
from PIL import Image

from clipperf.bench.file_runs import pixel_costs
from clipperf.embed.run import embed
from clipperf.embed.wishes import Wishes
from clipperf.export.make import make
from clipperf.inputs.preprocess import preprocess
from clipperf.models import zoo
from clipperf.nouns.variant import Variant
from clipperf.serve.bulk import Tower, open_tower
from clipperf.serve.images import encode
from clipperf.stats import median
from clipperf.system.env import available_cores, cpu_name

SIZE_PX = (640, 480)


def photos(folder: Path, count: int) -> list[Path]:
    """JPEG files that compress about as photographs do: clouds of colour, and some noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        clouds = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        pixels = np.asarray(clouds.resize(SIZE_PX, Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(pixels + rng.integers(-12, 13, pixels.shape, np.int16), 0, 255)
        found.append(folder / f"{number:05d}.jpg")
        Image.fromarray(noisy.astype(np.uint8)).save(found[-1], quality=90)
    return found


def ways(
    tower: Tower, paths: Sequence[Path], folder: Path, scratch: Path, shard_items: int
) -> dict[str, Callable[[], object]]:
    """What is timed, each over all images."""
    ready = preprocess(
        paths[: tower.batch], tower.pixels, np.empty(_shape(tower), tower.pixel_dtype)
    )
    number = itertools.count()

    def alone() -> None:
        for start in range(0, len(paths), tower.batch):
            tower.engine.run(ready[: min(tower.batch, len(paths) - start)])

    def served() -> None:
        encode(
            *(paths, tower.pixels, tower.engine, tower.batch, available_cores()),
            dtype=tower.pixel_dtype,
            embed_dim=tower.embed_dim,
        )

    def stored() -> None:
        opened = partial(contextlib.nullcontext, tower)
        out = scratch / f"out-{next(number)}"
        embed(folder, out, opened, Wishes(shard_items=shard_items))  # type: ignore[arg-type]

    return {"engine": alone, "encode_images": served, "embed": stored}


def _shape(tower: Tower) -> tuple[int, ...]:
    return tower.batch, *tower.pixels.shape


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="clipperf-sample")
    parser.add_argument("--pretrained")
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--folder", type=asked.folder, help="an exported folder, instead of a model"
    )
    parser.add_argument("--files", type=asked.folder, help="a folder of images; default: made here")
    parser.add_argument("--preprocess")
    parser.add_argument("--images", type=asked.count, default=512, help="images that are made")
    parser.add_argument("--batch", type=asked.count, default=8)
    parser.add_argument("--rounds", type=asked.count, default=5)
    parser.add_argument("--shard-items", type=asked.count, default=128)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.files or Path(scratch) / "photos"
        paths = sorted(folder.iterdir()) if args.files else photos(folder, args.images)
        made = (
            args.folder
            or make(
                zoo.resolve(args.model, args.pretrained),
                ("image",),
                Variant(args.runtime, args.precision),
            ).folder
        )
        with open_tower(made, "image", preprocess=args.preprocess) as tower:
            tower.batch = args.batch
            names = list(map(str, paths))
            costs = pixel_costs(names, tower.pixels, tower.pixel_dtype)
            own = ways(tower, paths, folder, Path(scratch), args.shard_items)
            rates: dict[str, list[float]] = {name: [] for name in own}
            for number in range(args.rounds + 1):
                for name, way in own.items():
                    started = time.perf_counter()
                    way()
                    if number:  # the first round reads files, and fills caches
                        rates[name].append(len(paths) / (time.perf_counter() - started))
            show(tower, len(paths), sum(costs), rates)


def show(tower: Tower, images: int, pixel_s: float, rates: dict[str, list[float]]) -> None:
    """The table, its columns divided by bars."""
    cores = available_cores()
    shared = [1 / (1 / rate + pixel_s / cores) for rate in rates["engine"]]
    cell = tower.cell
    print(f"{cell.model_id} images in {cell.setup}, batch {tower.batch}, {tower.pixels.method}")
    print(f"{images} images, {cores} cores, {cpu_name()}")
    print(f"pixels of one image: {1e3 * pixel_s:.2f} ms in one thread")
    print("| way | images/s | of the engine | of what the cores allow | of encode_images |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, own in {**rates, "shared": shared}.items():
        ratios = (
            median([a / b for a, b in zip(own, others, strict=True)])
            for others in (rates["engine"], shared, rates["encode_images"])
        )
        print(f"| {name} | {median(own):.1f} | " + " | ".join(f"{r:.3f}" for r in ratios) + " |")


if __name__ == "__main__":
    asked.run(main)
