"""PyTorch eager: the baseline that every other runtime is compared with."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from clipperf.engines._contract import Availability, Runtime
from clipperf.errors import EngineError, UnsupportedError
from clipperf.types import EngineRequest


def availability(device: str) -> Availability:
    """Whether torch is installed and, for "cuda", whether there is a GPU with a driver."""
    from clipperf.env import gpu_state, version_of

    if importlib.util.find_spec("torch") is None:
        return Availability(False, "torch is not installed", "pip install torch")
    version = version_of("torch") or "unknown version"
    if device == "cpu":
        return Availability(True, f"torch {version}")
    if gpu_state()[0] is None:
        return Availability(
            False, "no NVIDIA GPU or driver found", "run on a machine where nvidia-smi works"
        )
    return Availability(True, f"torch {version}")


class PyTorchEngine:
    """One tower in eager mode."""

    def __init__(self, module: Any, device: str) -> None:
        self._module = module
        self._device = device
        self.provider = device

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch; returns float32 [batch, embed_dim] on the host."""
        import torch

        if self._module is None:
            raise EngineError("this engine is closed")
        try:
            with torch.inference_mode():
                output = self._module(torch.from_numpy(array).to(self._device))
                result: np.ndarray = output.float().cpu().numpy()
        except torch.OutOfMemoryError as exc:
            raise EngineError(f"out of memory on {self._device} at batch {len(array)}") from exc
        except RuntimeError as exc:
            raise EngineError(f"torch: {str(exc).splitlines()[0]}") from exc
        return result

    def close(self) -> None:
        """Drop the weights."""
        self._module = None


DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def open(request: EngineRequest) -> PyTorchEngine:
    """Build the tower and move it to its device at the cell's precision.

    Raises:
        UnsupportedError: a precision that torch eager does not run.
        EngineError: CUDA was asked for and is not there.
    """
    import torch

    from clipperf.models.open_clip import build_tower

    cell = request.cell
    if cell.precision not in DTYPES:
        raise UnsupportedError(f"torch eager does not run {cell.precision}")
    if cell.device == "cuda" and not torch.cuda.is_available():
        raise EngineError("torch sees no CUDA device; clipperf doctor says what is missing")
    torch.set_num_threads(cell.threads)
    tower = build_tower(request.spec, cell.side, normalize=request.normalized)
    dtype = getattr(torch, DTYPES[cell.precision])
    module = tower.module if dtype == torch.float32 else tower.module.to(dtype)
    return PyTorchEngine(module.to(cell.device), cell.device)


RUNTIMES = (Runtime("torch", None, tuple(DTYPES), ("cpu", "cuda"), availability, open),)
