"""PyTorch eager, the baseline that every other runtime is compared with, and torch.compile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines.contract import Availability, is_out_of_memory, verdict
from clipperf.engines.processor import check_cell
from clipperf.errors import EngineError, UnsupportedError
from clipperf.nouns.cell import EngineRequest, Phases
from clipperf.nouns.variant import BFLOAT16, FLOAT16, FLOAT32, PRECISIONS
from clipperf.system import extras, nvidia

VERSIONS = 1024
"""So many shapes and precisions may be compiled in one process."""

DTYPES = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16"}
"""The type of the weights. Whether float32 is multiplied as TF32 is a switch of the GPU's."""

NO_COMPILER = ("TorchInductor needs a C++ compiler", "apt install g++ (or set CXX to another)")
NO_HEADERS = ("TorchInductor needs Python's headers", "apt install python3-dev")

INDUCTOR_ERRORS = {
    "C++ compiler": NO_COMPILER,
    "InvalidCxxCompiler": NO_COMPILER,
    "C compiler": NO_COMPILER,  # Triton's, for its launchers
    "Python.h": NO_HEADERS,
}
"""What stands in an error of torch.compile's, and what is missing then."""


def availability(device: str) -> Availability:
    """Whether torch is installed and, for "cuda", built for CUDA beside a GPU with a driver."""
    return verdict(_problems(device), _version())


def compile_availability(device: str) -> Availability:
    """As `availability`, and the compilers that TorchInductor calls."""
    problems = _problems(device)
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        problems.append(NO_COMPILER)
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        problems.append(NO_HEADERS)
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        problems.append(("TorchInductor needs Triton on a GPU", "pip install triton"))
    return verdict(problems, _version())


def _problems(device: str) -> list[nvidia.Problem]:
    if importlib.util.find_spec("torch") is None:
        return [("torch is not installed", extras.bring("torch"))]
    return nvidia.gpu_problems() if device == "cuda" else []


def _version() -> str:
    from clipperf.system.env import version_of

    return f"torch {version_of('torch') or 'unknown version'}"


class PyTorchEngine:
    """One tower on the CPU, eager or compiled."""

    provider = "cpu"

    def __init__(self, module: Any) -> None:
        self._module = module

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch; returns float32 [batch, embed_dim] on the host."""
        (found,) = self._outputs(array, lambda given: (self._module(given),))
        return found

    def run_features(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `run`, and the features [batch, width]; see `contract`."""
        from clipperf.models.features import both

        embeds, features = self._outputs(array, lambda given: both(self._module, given))
        return embeds, features

    def _outputs(
        self, array: np.ndarray, compute: Callable[[Any], tuple[Any, ...]]
    ) -> tuple[np.ndarray, ...]:
        import torch

        if self._module is None:
            raise EngineError("this engine is closed")
        try:
            with torch.inference_mode():
                found = compute(self._given(torch.from_numpy(array)))
                return tuple(output.float().cpu().numpy() for output in found)
        except Exception as exc:
            raise run_error(exc, f"at batch {len(array)}") from exc

    def _given(self, host: Any) -> Any:
        """The input where the module takes it."""
        return host

    def close(self) -> None:
        """Drop the weights."""
        self._module = None


class CudaEngine(PyTorchEngine):
    """One tower on the GPU. Inputs go through page-locked memory, which the GPU reads directly."""

    provider = "cuda"

    def __init__(self, module: Any, tf32: bool) -> None:
        super().__init__(module)
        self._tf32 = tf32
        self._pinned: Any = None

    def _given(self, host: Any) -> Any:
        self._set_tf32()
        return self._copy_in(host)

    def run_phases(self, array: np.ndarray) -> tuple[np.ndarray, Phases]:
        """As `run`, with the seconds of its copies and its compute by the GPU's events.

        The copy in starts with the host's own, into page-locked memory.
        """
        import torch

        if self._module is None:
            raise EngineError("this engine is closed")
        try:
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
            self._set_tf32()
            with torch.inference_mode():
                marks[0].record()
                given = self._copy_in(torch.from_numpy(array))
                marks[1].record()
                output = self._module(given).float()
                marks[2].record()
                result: np.ndarray = output.cpu().numpy()
                marks[3].record()
            torch.cuda.synchronize()
        except Exception as exc:
            raise run_error(exc, f"at batch {len(array)}") from exc
        h2d, compute, d2h = (marks[i].elapsed_time(marks[i + 1]) / 1e3 for i in range(3))
        return result, Phases(h2d_s=h2d, compute_s=compute, d2h_s=d2h)

    def allocated_bytes(self) -> int:
        """The most that torch's allocator has held of the GPU's memory, its reserve included."""
        import torch

        return int(torch.cuda.max_memory_reserved())

    def close(self) -> None:
        """Drop the weights and the page-locked buffer."""
        super().close()
        self._pinned = None

    def _copy_in(self, host: Any) -> Any:
        """Start the copy to the GPU; `run` ends with a copy back, so the buffer is free again."""
        import torch

        pinned = self._pinned
        if pinned is None or pinned.shape != host.shape or pinned.dtype != host.dtype:
            pinned = self._pinned = torch.empty(host.shape, dtype=host.dtype, pin_memory=True)
        return pinned.copy_(host).to("cuda", non_blocking=True)

    def _set_tf32(self) -> None:
        """The switches belong to the process, and engines of both kinds may share one."""
        import torch

        torch.backends.cuda.matmul.allow_tf32 = self._tf32
        torch.backends.cudnn.allow_tf32 = self._tf32


def run_error(exc: Exception, where: str) -> EngineError:
    """torch's error in one line; full memory and a missing compiler in words that help.

    `where` says what was being done, such as "at batch 8".
    """
    import torch

    text = str(exc)
    if isinstance(exc, torch.OutOfMemoryError) or is_out_of_memory(exc):
        kind = "RAM" if "can't allocate memory" in text else "GPU memory"
        return EngineError(f"out of {kind} {where}; use a smaller --batch")
    for sign, (what, fix) in INDUCTOR_ERRORS.items():
        if sign in text:
            return EngineError(f"{what}: {fix}")
    line = next((line for line in text.splitlines() if line.strip()), type(exc).__name__)
    return EngineError(f"torch: {line}")


def compiled(module: Any) -> Any:
    """`module` behind torch.compile, which compiles it at its first run with each shape.

    In torch's default mode, "a good balance between performance and overhead": "reduce-overhead"
    and "max-autotune" add CUDA graphs, which keep the workspace of every shape allocated, so that
    memory could not be compared with eager's. Shapes are fixed (`dynamic=False`), as a cell's
    are, and `fullgraph` makes whatever would silently stay eager an error. All shapes and
    precisions of a process are versions of one function, of which torch by default allows eight.
    """
    import torch
    import torch._dynamo

    limit = torch._dynamo.config
    limit.recompile_limit = max(limit.recompile_limit, VERSIONS)
    limit.accumulated_recompile_limit = max(limit.accumulated_recompile_limit, VERSIONS)
    return torch.compile(module, fullgraph=True, dynamic=False)


def open(request: EngineRequest, prepare: Callable[[Any], Any] | None = None) -> PyTorchEngine:
    """Build the tower, and move it to its device at the cell's precision: real half weights.

    `prepare` is applied to the module at last.

    Raises:
        UnsupportedError: a precision that the device, or this machine's processor, does not run.
        EngineError: CUDA was asked for and is not there, or its memory is too small.
    """
    import torch

    from clipperf.models.family import family_of

    cell = request.cell
    row = PRECISIONS.find(cell.precision)
    if row is None or row.weights not in DTYPES:
        raise UnsupportedError(f"{cell.runtime} does not run {cell.precision}")
    if cell.device == "cpu" and row.tf32:
        raise UnsupportedError("tf32 is a mode of NVIDIA GPUs; give --device cuda")
    check_cell(cell)
    if cell.device == "cuda" and not torch.cuda.is_available():
        raise EngineError("torch sees no CUDA device; clipperf doctor says what is missing")
    torch.set_num_threads(cell.threads)
    tower = family_of(request.spec).build(request.spec, cell.side, request.normalized)
    dtype = getattr(torch, DTYPES[row.weights])
    module = tower.module if dtype == torch.float32 else tower.module.to(dtype)
    if cell.device == "cuda":
        try:
            module = module.to("cuda")
        except RuntimeError as exc:
            raise run_error(exc, f"while loading {cell.label}") from exc
    if prepare is not None:
        module = prepare(module)
    if cell.device == "cuda":
        return CudaEngine(module, tf32=row.tf32)
    return PyTorchEngine(module)
