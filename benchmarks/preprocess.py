"""Cost and effect of the ways to preprocess images: tables in Markdown.

    python benchmarks/preprocess.py                  # seeded pictures with a photograph's spectrum
    python benchmarks/preprocess.py photos/*.jpg     # your own files in their place

Time: one thread, decode to float array at 224 pixels, the ways in turn, ratios within a round.
Effect: the bundled sample, whose 64-pixel drawings are enlarged to JPEG files of 512 pixels, so
that there is something to decode and to shrink. Inputs: what the last step, from a frame's bytes
to floats, costs where the tower does not take them as they are. Workers: images per second from
JPEG files to embeddings of the sample, whose small engine leaves most of the time to the pictures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import asked
import numpy as np
from PIL import Image

import clipperf
from clipperf import stats, units
from clipperf.evals import accuracy
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.place import SAMPLE
from clipperf.export.make import make
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import METHODS, PreprocessSpec
from clipperf.inputs.sources import ImageSource
from clipperf.models import zoo
from clipperf.nouns.cell import Cell
from clipperf.nouns.variant import PIXEL_DTYPES, SIDES, Variant
from clipperf.serve.model import ClipModel

PICTURES = (("JPEG", 640, 480), ("JPEG", 1920, 1080), ("JPEG", 4000, 3000), ("PNG", 512, 512))
ROUNDS = 15
ENLARGED_PX = 512
METRICS = ("zeroshot top-1", "image-to-text recall@1", "text-to-image recall@1")
SHOWN_IMAGES = 256


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="*", type=asked.file, help="pictures to time instead of made ones"
    )
    parser.add_argument("--rounds", type=asked.count, default=ROUNDS)
    options = parser.parse_args()
    folder = make(zoo.resolve("clipperf-sample"), SIDES, Variant("onnx")).folder
    with tempfile.TemporaryDirectory() as scratch:
        print_times(options.files or made_pictures(Path(scratch)), options.rounds)
        print_inputs(20 * options.rounds)
        large = enlarged(load_dataset(SAMPLE), Path(scratch))
        print_effect(folder, large)
        print_workers(folder, [image.path for image in large.images[:SHOWN_IMAGES]], options.rounds)


def print_times(files: Sequence[Path], rounds: int) -> None:
    """Milliseconds of each way, its speed over the exact one, and how far its pixels are off."""
    print("| picture | way | ms | over exact | max difference | off by more than 1 |")
    print("|---|---|---:|---:|---:|---:|")
    raw = PreprocessSpec(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    for file in files:
        calls = {
            method: partial(preprocess, [file], replace(raw, method=method)) for method in METHODS
        }
        seconds = in_turn(calls, rounds)
        exact = calls["exact"]()
        for method in METHODS:
            off = np.abs(calls[method]() - exact).round()
            print(
                f"| {file.stem} {file.suffix[1:]} | {method} | "
                f"{units.ms(stats.median(seconds[method]))} | "
                f"{units.ratio(*stats.paired_ratio(seconds[method], seconds['exact']))} | "
                f"{off.max():.0f}/255 | {(off > 1).mean():.1e} |",
                flush=True,
            )


def print_inputs(rounds: int) -> None:
    """What normalising on the host costs: a picture that is decoded and of the right size."""
    spec = PreprocessSpec()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (spec.height_px, spec.width_px, 3), dtype=np.uint8)
    frame = Image.fromarray(pixels)
    outs = {dtype: np.empty((1, *spec.shape), dtype) for dtype in PIXEL_DTYPES}
    calls: dict[str, Callable[[], Any]] = {
        dtype: partial(preprocess, [frame], spec, out) for dtype, out in outs.items()
    }
    seconds = in_turn(calls, rounds)
    print("\n| input | KiB | ms | over float32 |\n|---|---:|---:|---:|")
    for dtype, out in outs.items():
        ratio = units.ratio(*stats.paired_ratio(seconds[dtype], seconds["float32"]))
        ms = units.ms(stats.median(seconds[dtype]))
        print(f"| {dtype} | {out.nbytes / 1024:.0f} | {ms} | {ratio} |", flush=True)


def print_effect(folder: Path, dataset: Dataset) -> None:
    """Cosines of the sample's embeddings to those of the exact way, and its accuracy."""
    found = {}
    for method in METHODS:
        with clipperf.load(folder, preprocess=method) as model:
            found[cell(method)] = accuracy.embed(dataset, Paths(model))
    scores = accuracy.score(dataset, found, cell("exact"))
    print(f"\n| way | min cosine | mean cosine | {' | '.join(METRICS)} |")
    print(f"|---|---:|---:|{'---:|' * len(METRICS)}")
    for key, embeddings in found.items():
        cosines = (embeddings.images * found[cell("exact")].images).sum(1)
        cells = [f"{cosines.min():.6f}", f"{cosines.mean():.6f}"]
        for metric in METRICS:
            row = next(s for s in scores if (s.cell.runtime, s.metric) == (key.runtime, metric))
            change = "" if row.difference is None else f" ({units.points(row.difference)})"
            cells.append(f"{units.share(row.value)}{change}")
        print(f"| {key.runtime} | {' | '.join(cells)} |")
    print(f"\n{len(dataset.images)} images.")


def print_workers(folder: Path, files: Sequence[Path], rounds: int) -> None:
    """Images per second from files to embeddings, by way and number of threads."""
    counts = sorted({0, 1, os.cpu_count() or 1})
    print("\n| way | workers | images/s | over 0 workers |\n|---|---:|---:|---:|")
    for method in METHODS:
        with clipperf.load(folder, preprocess=method) as model:
            calls = {str(n): partial(model.encode_images, files, workers=n) for n in counts}
            seconds = in_turn(calls, rounds)
        for n, samples in seconds.items():
            speed = units.rate(len(files) / stats.median(samples))
            ratio = units.ratio(*stats.paired_ratio(samples, seconds["0"]))
            print(f"| {method} | {n} | {speed} | {ratio} |", flush=True)


def in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, taken in turn; the first round warms up and is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: samples[1:] for name, samples in seconds.items()}


class Paths:
    """A model that takes a dataset's files by their path."""

    def __init__(self, model: ClipModel) -> None:
        self._model = model

    def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
        """Embed image files."""
        return self._model.encode_images([image.path for image in images])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts."""
        return self._model.encode_texts(texts)


def cell(method: str) -> Cell:
    """The key of one way's scores; the way stands in the place of the runtime."""
    return Cell("clipperf-sample", "image", method, "fp32", "cpu", 32, os.cpu_count() or 1)


def enlarged(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with every image as a large JPEG file."""
    images = []
    for i, source in enumerate(dataset.images):
        path = folder / f"{i}.jpg"
        size = (ENLARGED_PX, ENLARGED_PX)
        source.open().convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        images.append(ImageSource(source.name, path))
    return replace(dataset, images=tuple(images))


def made_pictures(folder: Path) -> list[Path]:
    """One seeded picture of each of `PICTURES`, its spectrum falling as that of photographs."""
    paths = []
    for form, width, height in PICTURES:
        rng = np.random.default_rng(0)
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
        frequency[0, 0] = np.inf
        planes = []
        for _ in range(3):
            real, imaginary = rng.standard_normal((2, *frequency.shape)) / frequency**1.4
            plane = np.fft.irfft2(real + 1j * imaginary, (height, width))
            planes.append(120 + 50 * plane / plane.std())
        paths.append(folder / f"{width}x{height}.{form.lower()}")
        pixels = np.stack(planes, -1).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


if __name__ == "__main__":
    asked.run(main)
