"""How much faster a text tower that is not causal is where texts are cut at their padding.

    python benchmarks/cut_texts.py                                # XLM-R Large, 560 M parameters
    python benchmarks/cut_texts.py M-CLIP/LABSE-Vit-L-14 --tokens 8,21,40

M-CLIP's text towers with seeded random weights, exported once; in each runtime the same engine gets
the same texts cut and padded to the whole context, in turn, and ratios are of neighbours. Random
ids in the place of words: times do not depend on them. XLM-R Large takes 2.2 GB of disk and 5 GB of
RAM.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import asked
import numpy as np

from clipperf import stats, units
from clipperf.engines import onnxruntime, openvino
from clipperf.engines.contract import Engine
from clipperf.graph import trace
from clipperf.models import zoo
from clipperf.models.cutting import shown
from clipperf.models.family import family_of
from clipperf.nouns.model import ModelSpec

OPENERS: dict[str, Callable[[Path, int], Engine]] = {
    "onnx": onnxruntime.open_session,
    "openvino": openvino.open_compiled,
}


def main() -> None:
    """Print one Markdown row for each runtime, length and batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="M-CLIP/XLM-Roberta-Large-Vit-B-32")
    parser.add_argument("--tokens", type=asked.counts, default=[21], help="lengths of texts: 8,21")
    parser.add_argument("--batch", type=asked.counts, default=[1, 8])
    parser.add_argument("--runtime", type=asked.among(OPENERS), default="onnx,openvino")
    parser.add_argument("--rounds", type=asked.count, default=10)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        spec, pad = exported(options.model, path)
        whole = spec.context_tokens
        print(f"{spec.id}, fp32, {threads} threads\n")
        print(f"| runtime | batch | tokens | ms at {whole} | ms cut | times as fast | apart |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for runtime in options.runtime:
            with closing(OPENERS[runtime](path, threads)) as engine:
                for batch in options.batch:
                    for length in options.tokens:
                        texts = padded(spec, pad, batch, length)
                        row = measured(engine, texts, length, options.rounds)
                        print(f"| {runtime} | {batch} | {length} | {row} |", flush=True)


def exported(name: str, path: Path) -> tuple[ModelSpec, int]:
    """Write a model's text tower, whose texts may be cut; the model, and the id of its padding."""
    spec = zoo.resolve(name, "random")
    tower = family_of(spec).build(spec, "text", True)
    pad = tower.module.model.pad
    texts = np.concatenate([padded(spec, pad, 1, length) for length in (4, 21, 60)])
    cut = shown(tower.module, texts, np.array([4, 21, 60]))
    if cut.at is None:
        raise SystemExit(f"{spec.id}: texts may not be cut: {cut.why}")
    trace.export_onnx(replace(tower, dynamic_tokens=True), path)
    return spec, pad


def padded(spec: ModelSpec, pad: int, batch: int, length: int) -> np.ndarray:
    """Texts of a length, padded to the context: int64 [batch, context_tokens]."""
    texts = np.full((batch, spec.context_tokens), pad, np.int64)
    texts[:, :length] = np.random.default_rng(0).integers(1000, 100_000, (batch, length))
    return texts


def measured(engine: Engine, texts: np.ndarray, length: int, rounds: int) -> str:
    """Both ways in turn, the first round to warm up: milliseconds, their ratio, how far apart."""
    inputs = texts, np.ascontiguousarray(texts[:, :length])
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for given, samples in zip(inputs, seconds, strict=True):
            start = time.perf_counter()
            engine.run(given)
            samples.append(time.perf_counter() - start)
    whole, cut = (samples[1:] for samples in seconds)
    apart = np.abs(np.array(engine.run(inputs[0])) - engine.run(inputs[1])).max()
    ratio = units.ratio(*stats.paired_ratio(cut, whole))
    return " | ".join(
        (units.ms(stats.median(whole)), units.ms(stats.median(cut)), ratio, f"{apart:.1e}")
    )


if __name__ == "__main__":
    asked.run(main)
