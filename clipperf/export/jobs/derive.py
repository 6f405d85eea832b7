"""One tower of fewer bits, made from its ONNX file and judged. Runs in an export's process."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clipperf.engines import onnxruntime as ort_engine
from clipperf.evals.datasets import load_dataset
from clipperf.export import derived, gate
from clipperf.export.derived import QuantizeSettings
from clipperf.export.job import Built, Job, Tell, like
from clipperf.export.judge.drift import Judge, Loss
from clipperf.export.judge.search import search
from clipperf.graph import patches, proto, quantize
from clipperf.nouns.artifact import Quantization
from clipperf.nouns.cell import Engine
from clipperf.nouns.variant import SIDES, Side
from clipperf.system import store


class Quantizer(Protocol):
    """A way to make a tower of fewer bits.

    `weight_bits` are those of an integer weight, sign included; None where nobody limits them.
    """

    layers: list[str]
    weight_bits: int | None

    def write(self, kept: Sequence[str], path: Path, rough: bool = False) -> None:
        """Write the tower with all layers but `kept` quantised.

        `rough`: it will only be compared with others like it, and may be what is made faster.
        """
        ...


Opener = Callable[[Path, Judge, Job, Path], Quantizer]
"""Makes a quantizer of an ONNX file, for a job, with an empty folder for as long as it writes."""


class OnnxQuantizer:
    """ONNX graphs for ONNX Runtime and TensorRT; see `graph.quantize`."""

    def __init__(self, source: Path, judge: Judge, job: Job, scratch: Path) -> None:
        self._model = proto.load(source)
        self._row, self._portable = row, portable = job.variant.row, job.variant.portable
        method = quantize.method_of(row)
        self._threads = job.threads
        self._scratch = scratch
        self.weight_bits = quantize.weight_bits(row, portable)
        if method not in quantize.CALIBRATED:
            patches.as_product(self._model)
        found = quantize.layers(self._model, method)
        self.layers = [layer.name for layer in found]
        self._ranges = None
        if method in quantize.CALIBRATED:
            names = dict.fromkeys(layer.activation for layer in found)
            self._ranges = quantize.activation_ranges(
                self._model, list(names), lambda model: self._observe(model, judge.probes)
            )

    def _observe(self, model: Any, batches: Sequence[np.ndarray]) -> Iterator[Sequence[np.ndarray]]:
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            path = Path(folder) / "probed.onnx"
            quantize.save(model, path)
            session = ort_engine.cpu_session(path, self._threads)
            for batch in batches:
                yield session.run(None, {session.get_inputs()[0].name: batch})

    def write(self, kept: Sequence[str], path: Path, rough: bool = False) -> None:
        """See `Quantizer`; nothing would be faster."""
        method = quantize.method_of(self._row)
        most = quantize.weight_max(self._row, self._portable)
        model = quantize.quantized(self._model, method, kept, self._ranges, most)
        quantize.save(model, path)


def quantised(job: Job, tell: Tell, quantizer: Opener) -> Built:
    """Write the tower of a job, with as few layers kept as they were as its bounds take.

    These are the margin on its samples, the gate's cosine on them, and the gate itself; with random
    weights, which have no accuracy, the last two alone. Trials run as the tower will.

    Raises:
        UsageError: the samples cannot be used.
        EngineError: a runtime cannot run what was written.
    """
    source, graph = job.source()
    settings, kept_in, target = derived.settings_of(job.variant), job.variant.row.graph, job.target
    tell("embedding the samples in fp32")
    judge = _judge(job, settings)
    built = like(graph)
    losses: dict[tuple[str, ...], Loss] = {}
    tried_last: tuple[str, ...] | None = None
    with (
        tempfile.TemporaryDirectory(dir=target.parent) as scratch,
        tempfile.TemporaryDirectory(dir=target.parent) as own,
    ):
        trial = Path(scratch) / target.name
        tell("calibrating")
        made = quantizer(source, judge, job, Path(own))

        @contextlib.contextmanager
        def tried(kept: Sequence[str], rough: bool = False) -> Iterator[Engine]:
            nonlocal tried_last
            # Of a rough trial nothing is taken over.
            tried_last = None if rough else tuple(kept)
            made.write(kept, trial, rough)
            with contextlib.closing(gate.opened(job, trial)) as engine:
                yield engine

        def drift(kept: Sequence[str]) -> float:
            tell("looking for the layers that hurt")
            with tried(kept, rough=True) as engine:
                worst = gate.compared(engine, job, built).min_cosine
                return max(judge.drift(engine), 1 - worst)

        def holds(kept: Sequence[str]) -> bool:
            tell(f"judging with {len(kept)} of {len(made.layers)} layers kept in {kept_in}")
            with tried(kept) as engine:
                if not gate.compared(engine, job, built).passed:
                    return False  # which few inputs say, before all samples are asked
                loss = losses[tuple(kept)] = judge.loss(engine)
            return loss.within(settings.margin, job.min_cosine)

        found = search(made.layers, drift, holds, settings.most_kept)
        if found.kept == tried_last:  # it is there already
            for path in trial.parent.iterdir():
                path.rename(target.parent / path.name)
        else:
            made.write(found.kept, target)
    loss = losses.get(found.kept)
    if loss is None:
        with contextlib.closing(gate.opened(job, target)) as engine:
            loss = judge.loss(engine)
    return replace(
        built,
        quantization=Quantization(
            len(made.layers),
            found.kept,
            kept_in,
            loss.n,
            loss.min_cosine,
            loss.points,
            loss.points_at_most,
        ),
        weight_bits=made.weight_bits,
        holds=found.holds,
        needed=found.needed,
    )


def _judge(job: Job, settings: QuantizeSettings) -> Judge:
    """The judge of a job's tower; accuracy counts where both fp32 towers are there."""
    folder = Path(job.sources[-1])
    judges = (job.side,) if job.spec.random_weights else SIDES
    with contextlib.ExitStack() as stack:
        engines: dict[Side, Engine] = {}
        manifest = store.read_manifest(folder)
        for tower in manifest.towers:
            if tower.side in judges:
                engine = ort_engine.open_session(folder / tower.path, job.threads)
                engines[tower.side] = stack.enter_context(contextlib.closing(engine))
        samples = load_dataset(settings.calibrate)
        return Judge(job.side, folder, samples, engines, manifest.cut_at, job.variant.pixel_dtype)
