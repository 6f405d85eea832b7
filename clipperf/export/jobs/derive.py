"""The child process's side of `export.exporters.quantized`: one tower made from its ONNX file."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clipperf.engines import onnxruntime as ort_engine
from clipperf.evals.datasets import load_dataset
from clipperf.export.judge.drift import Judge
from clipperf.export.judge.search import Found, search
from clipperf.graph import quantize
from clipperf.nouns.cell import Engine
from clipperf.nouns.variant import Side
from clipperf.system.processes import status_bytes

Tell = Callable[[str], None]


class Quantizer(Protocol):
    """A way to make a tower of fewer bits."""

    layers: list[str]

    def write(self, kept: Sequence[str], path: Path) -> None:
        """Write the tower with all layers but `kept` quantised."""
        ...

    def open(self, path: Path) -> Engine:
        """Open what `write` has written."""
        ...


class OnnxQuantizer:
    """ONNX graphs for ONNX Runtime and TensorRT; see `graph.quantize`."""

    def __init__(self, source: Path, method: quantize.Method, judge: Judge, threads: int) -> None:
        import onnx

        self._model = onnx.load(source)
        self._method: quantize.Method = method
        self._threads = threads
        found = quantize.layers(self._model, method)
        self.layers = [layer.name for layer in found]
        self._ranges = None
        if method != "dynamic":
            names = dict.fromkeys(layer.activation for layer in found)
            self._ranges = quantize.activation_ranges(
                self._model, list(names), lambda model: self._observe(model, judge.probes)
            )

    def _observe(self, model: Any, batches: Sequence[np.ndarray]) -> Iterator[Sequence[np.ndarray]]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probed.onnx"
            quantize.save(model, path)
            session = ort_engine.cpu_session(path, self._threads)
            for batch in batches:
                yield session.run(None, {session.get_inputs()[0].name: batch})

    def write(self, kept: Sequence[str], path: Path) -> None:
        """See `Quantizer`."""
        most = quantize.weight_max(self._method)
        model = quantize.quantized(self._model, self._method, kept, self._ranges, most)
        quantize.save(model, path)

    def open(self, path: Path) -> Engine:
        """See `Quantizer`."""
        numbers = quantize.NUMBERS[self._method].name
        return ort_engine.open_session(path, self._threads, precision=numbers)


def derive(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Write one tower into ``job["target"]`` as its recipe says; returns what was found.

    Raises:
        UsageError: the samples cannot be used.
        EngineError: a runtime cannot run what was written.
    """
    start = time.perf_counter()
    target = Path(job["target"])
    target.parent.mkdir(parents=True, exist_ok=True)
    if job["recipe"] in ("convert", "weights"):
        from clipperf.export.jobs.openvino import convert

        tell("converting")
        convert(Path(job["source"]), target, weights_only=job["recipe"] == "weights")
        return _done(start, {"holds": True})
    tell("embedding the samples in fp32")
    judge = _judge(job)
    tell("calibrating")
    quantizer = _quantizer(job, judge)
    losses: list[Any] = []
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        trial = Path(scratch) / target.name

        @contextlib.contextmanager
        def tried(kept: Sequence[str]) -> Iterator[Engine]:
            quantizer.write(kept, trial)
            with contextlib.closing(quantizer.open(trial)) as engine:
                yield engine

        def drift(kept: Sequence[str]) -> float:
            tell("looking for the layers that hurt")
            with tried(kept) as engine:
                return judge.drift(engine)

        def holds(kept: Sequence[str]) -> bool:
            kept_in = f"{len(kept)} of {len(quantizer.layers)} layers kept in {job['graph']}"
            tell(f"judging with {kept_in}")
            with tried(kept) as engine:
                losses.append(judge.loss(engine))
            return bool(losses[-1].within(job["margin"], job["min_cosine"]))

        found = search(quantizer.layers, drift, holds)
    quantizer.write(found.kept, target)
    return _done(start, _said(found, quantizer, losses[-1], job["graph"]))


def _judge(job: dict[str, Any]) -> Judge:
    """The judge of a job's tower; accuracy counts where both fp32 towers are given."""
    folder = Path(job["folder"])
    with contextlib.ExitStack() as stack:
        engines: dict[Side, Engine] = {}
        for side, name in job["fp32"].items():
            engine = ort_engine.open_session(folder / name, job["threads"])
            engines[side] = stack.enter_context(contextlib.closing(engine))
        samples = load_dataset(job["calibrate"])
        return Judge(job["side"], folder, samples, engines, job["cut"], job["input"])


def _quantizer(job: dict[str, Any], judge: Judge) -> Quantizer:
    if job["recipe"] == "nncf":
        from clipperf.export.jobs.openvino import OpenVinoQuantizer

        return OpenVinoQuantizer(Path(job["source"]), judge, job["threads"])
    return OnnxQuantizer(Path(job["source"]), job["recipe"], judge, job["threads"])


def _said(found: Found, quantizer: Quantizer, loss: Any, graph: str) -> dict[str, Any]:
    notes = {
        "layers": str(len(quantizer.layers)),
        f"kept in {graph}": ", ".join(found.kept) or "none",
        "samples": str(loss.n),
        "min cosine": f"{loss.min_cosine:.5f}",
    }
    if loss.points is not None:
        notes["points lost"] = f"{loss.points:.2f}"
    return {"holds": found.holds, "notes": notes}


def _done(start: float, outcome: dict[str, Any]) -> dict[str, Any]:
    peak = status_bytes("VmHWM")
    return {"notes": {}, **outcome, "build_s": time.perf_counter() - start, "peak_rss_bytes": peak}
