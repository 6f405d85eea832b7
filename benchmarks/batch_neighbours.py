"""What shares a batch with an input: how far it moves an embedding, and what scales by row cost.

    python benchmarks/batch_neighbours.py [MODEL] [--precision int8,int8-row] [--batch 32]

Embeds samples alone and in batches, in ONNX Runtime, and prints the least cosine between the two
with the largest difference of a value; then times the precisions in turns, as ratios to fp32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack

import asked
import numpy as np

import clipperf
from clipperf.drift import drift_of
from clipperf.evals import datasets
from clipperf.evals.accuracy import ModelEmbedder, in_batches
from clipperf.export.judge.drift import Recorder
from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.variant import BASELINE_PRECISION, SIDES, Side, Variant
from clipperf.serve.model import ClipModel
from clipperf.system.env import available_cores, cpu_name

ROUNDS = 15
"""Of timing; each takes every precision once."""


def main() -> None:
    """Export what is missing, then print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="clipperf-sample")
    parser.add_argument("--pretrained")
    parser.add_argument("--precision", default="int8,int8-row,int8-static")
    parser.add_argument("--batch", type=asked.count, default=32)
    parser.add_argument("--samples", type=asked.count, default=256)
    given = parser.parse_args()
    spec = zoo.resolve(given.model, given.pretrained)
    data = datasets.load_dataset("sample")
    inputs: dict[Side, list] = {
        "image": list(data.images[: given.samples]),
        "text": list(dict.fromkeys(data.captions))[: given.samples],
    }
    print(f"{spec.id}, {available_cores()} cores of {cpu_name()}, batches of {given.batch}")
    with ExitStack() as opened:
        models = {}
        for precision in (BASELINE_PRECISION, *given.precision.split(",")):
            folder = make(spec, SIDES, Variant("onnx", precision)).folder
            models[precision] = opened.enter_context(clipperf.load(folder))
        for side in SIDES:
            for precision, model in models.items():
                together = encode(model, side, inputs[side], given.batch)
                alone = encode(model, side, inputs[side], 1)
                moved = drift_of(together, alone)
                print(
                    f"{side:5} {precision:12} alone against in a batch: least cosine "
                    f"{moved.min_cosine:.7f}, largest difference {moved.max_abs_diff:.1e}"
                )
            timed(models, side, inputs[side], given.batch)


def encode(model: ClipModel, side: Side, inputs: list, batch: int) -> np.ndarray:
    """Embeddings of all inputs, so many at once."""
    embedder = ModelEmbedder(model)
    method = embedder.encode_images if side == "image" else embedder.encode_texts
    return in_batches(method, inputs, batch)


def timed(models: dict[str, ClipModel], side: Side, inputs: list, batch: int) -> None:
    """Time the precisions in turns on the same batch of tower inputs."""
    recorded = {name: _tower_batch(model, side, inputs[:batch]) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, (engine, array) in recorded.items():
            engine.run(array)
            start = time.perf_counter()
            engine.run(array)
            times[name].append(time.perf_counter() - start)
    for name, own in times.items():
        ratios = [a / b for a, b in zip(times[BASELINE_PRECISION], own, strict=True)]
        print(f"{side:5} {name:12} {statistics.median(ratios):.2f} times fp32's rate")


def _tower_batch(model: ClipModel, side: Side, inputs: list) -> tuple:
    """A tower's engine, and what it is given for these inputs."""
    engine, recorder = model._engines[side], Recorder()
    model._engines[side] = recorder
    encode(model, side, inputs, len(inputs))
    model._engines[side] = engine
    return engine, max(recorder.batches, key=len)


if __name__ == "__main__":
    asked.run(main)
