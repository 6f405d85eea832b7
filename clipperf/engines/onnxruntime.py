"""ONNX Runtime on the CPU. Needs numpy and onnxruntime, and never imports torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines._contract import Availability, Runtime
from clipperf.errors import EngineError
from clipperf.types import EngineRequest

PROVIDERS = {"cpu": "CPUExecutionProvider"}

DISABLED_OPTIMIZERS = ["FuseFp16InitializerToFp32NodeTransformer"]
"""This one crashes the process on pure-fp16 graphs with LayerNormalization (ONNX Runtime 1.31)."""


def availability(device: str) -> Availability:
    """Whether ONNX Runtime is installed."""
    from clipperf.env import version_of

    if importlib.util.find_spec("onnxruntime") is None:
        return Availability(False, "onnxruntime is not installed", "pip install onnxruntime-gpu")
    package = "onnxruntime-gpu" if version_of("onnxruntime-gpu") else "onnxruntime"
    return Availability(True, f"{package} {version_of(package) or 'unknown version'}")


class OnnxRuntimeEngine:
    """One session with a single input and a single output."""

    def __init__(self, session: Any, provider: str) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self.provider = provider

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch; returns float32 [batch, embed_dim]."""
        if self._session is None:
            raise EngineError("this engine is closed")
        try:
            result: np.ndarray = self._session.run(None, {self._input: array})[0]
        except Exception as exc:
            raise EngineError(f"onnxruntime: {str(exc).splitlines()[0]}") from exc
        return result

    def close(self) -> None:
        """Free the session."""
        self._session = None


def open_session(
    path: Path, threads: int, device: str = "cpu", prepack: bool = True
) -> OnnxRuntimeEngine:
    """Open a model file. Without `prepack` weights are used where they lie, memory-mapped.

    Raises:
        EngineError: the file cannot be loaded, or another provider than the asked one would run.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=[PROVIDERS[device]],
            disabled_optimizers=DISABLED_OPTIMIZERS,
        )
    except Exception as exc:
        raise EngineError(f"onnxruntime cannot load {path}: {str(exc).splitlines()[0]}") from exc
    running = session.get_providers()
    if running[0] != PROVIDERS[device]:
        raise EngineError(f"asked for {PROVIDERS[device]}, onnxruntime chose {running[0]}")
    return OnnxRuntimeEngine(session, running[0])


def open(request: EngineRequest) -> OnnxRuntimeEngine:
    """Open the artifact's model file with the cell's threads."""
    if request.path is None:
        raise EngineError(f"{request.cell.label}: no artifact was given")
    return open_session(Path(request.path), request.cell.threads, request.cell.device)


RUNTIMES = (Runtime("onnx", "onnx", ("fp32", "fp16"), ("cpu",), availability, open),)
