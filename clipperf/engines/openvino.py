"""OpenVINO on the CPU: an IR or an ONNX file. Needs numpy and openvino, and never imports torch."""

from __future__ import annotations

import importlib.util
import queue
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines._contract import Availability, Runtime
from clipperf.env import available_cores, version_of
from clipperf.errors import EngineError
from clipperf.types import EngineRequest

PRECISIONS = ("fp32", "int8w", "int8")


def availability(device: str) -> Availability:
    """Whether OpenVINO is installed."""
    if importlib.util.find_spec("openvino") is None:
        return Availability(False, "openvino is not installed", 'pip install "clipperf[openvino]"')
    return Availability(True, f"openvino {version_of('openvino') or 'unknown version'}")


class OpenVinoEngine:
    """One compiled tower with a single input and a single output."""

    provider = "CPU"

    def __init__(self, compiled: Any, streams: int = 1) -> None:
        self._compiled = compiled
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.streams = streams
        for _ in range(streams):
            self._free.put(compiled.create_infer_request())

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch; returns float32 [batch, embed_dim]."""
        if self._compiled is None:
            raise EngineError("this engine is closed")
        request = self._free.get()
        try:
            found = request.infer({0: array}, share_inputs=True)
            # The request writes its next result into the same memory.
            result: np.ndarray = np.array(found[0], np.float32)
        except RuntimeError as exc:
            raise EngineError(f"openvino: {reason(exc)}") from exc
        finally:
            self._free.put(request)
        return result

    def close(self) -> None:
        """Free the tower."""
        self._compiled = None
        self._free = queue.SimpleQueue()


def open_compiled(path: Path, threads: int, streams: int = 1) -> OpenVinoEngine:
    """Open a model file (.xml with its .bin, or .onnx) with `threads` over all `streams`.

    One stream gives the shortest latency. Threads stay within the cores that this process may
    use and are not bound to single ones, as in the other runtimes. Weights are memory-mapped.

    Raises:
        EngineError: the file cannot be read or compiled.
    """
    import openvino

    # In fp32 as asked for: where a CPU has bf16, OpenVINO would take that for its own choice.
    settings = {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "INFERENCE_NUM_THREADS": min(threads, available_cores()),
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
    except RuntimeError as exc:
        raise EngineError(f"openvino cannot load {path}: {reason(exc)}") from exc
    return OpenVinoEngine(compiled, streams)


def reason(exc: Exception) -> str:
    """The last line of OpenVINO's error: places in its own source come first."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__


def open(request: EngineRequest) -> OpenVinoEngine:
    """Open the artifact's model file with the cell's threads."""
    if request.path is None:
        raise EngineError(f"{request.cell.label}: no artifact was given")
    return open_compiled(Path(request.path), request.cell.threads, request.cell.streams)


RUNTIMES = (
    Runtime("openvino", "openvino", PRECISIONS, ("cpu",), availability, open, streams=True),
)
