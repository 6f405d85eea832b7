"""ONNX Runtime on the CPU. Needs numpy and onnxruntime, and never imports torch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines.contract import SHORTEST_TOKENS, Availability, failed_run
from clipperf.errors import EngineError
from clipperf.nouns.artifact import Artifact
from clipperf.nouns.cell import EngineRequest
from clipperf.nouns.variant import PRECISIONS
from clipperf.system import extras
from clipperf.system.quiet import hush

CPU = "CPUExecutionProvider"

DISABLED_OPTIMIZERS = ["FuseFp16InitializerToFp32NodeTransformer"]
"""This one crashes the process on pure-fp16 graphs with LayerNormalization (ONNX Runtime 1.31)."""


def availability(device: str) -> Availability:
    """Whether ONNX Runtime is installed."""
    from clipperf.system.env import version_of

    if importlib.util.find_spec("onnxruntime") is None:
        return Availability(False, "onnxruntime is not installed", extras.bring("onnxruntime"))
    found = [
        f"{name} {version}"
        for name in (extras.GPU_BUILD, extras.CPU_BUILD)
        if (version := version_of(name))
    ]
    if len(found) == 2:
        return Availability(
            True, f"{' and '.join(found)} overwrite each other: uninstall both, install one"
        )
    return Availability(True, found[0] if found else "onnxruntime of unknown version")


def library() -> Any:
    """The package, imported here and nowhere else, so that it never reports about its users."""
    hush()
    import onnxruntime

    return onnxruntime


class OnnxRuntimeEngine:
    """One session with a single input, and embeddings for its first output; it copies both."""

    def __init__(
        self,
        session: Any,
        provider: str,
        streams: int = 1,
        min_tokens: int = SHORTEST_TOKENS,
        max_batch: int = sys.maxsize,
    ) -> None:
        self.min_tokens, self.max_batch = min_tokens, max_batch
        self._session = session
        self.streams = streams
        self._input = session.get_inputs()[0].name
        self._embeds = [session.get_outputs()[0].name]
        self.provider = provider

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch; returns float32 [batch, embed_dim]."""
        if self._session is None:
            raise EngineError("this engine is closed")
        try:
            result: np.ndarray = self._session.run(self._embeds, {self._input: array})[0]
        except Exception as exc:
            raise run_error(exc, len(array)) from exc
        return result

    def run_features(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `run`, and the features [batch, width]; see `contract`."""
        if self._session is None:
            raise EngineError("this engine is closed")
        try:
            found = self._session.run(None, {self._input: array})
        except Exception as exc:
            raise run_error(exc, len(array)) from exc
        return found[0], found[-1]

    def close(self) -> None:
        """Free the session."""
        self._session = None


def run_error(exc: Exception, batch: int) -> EngineError:
    """ONNX Runtime's error in one line; see `failed_run`."""
    return failed_run("onnxruntime", exc, batch, first_line(exc))


def first_line(exc: Exception) -> str:
    """The first line of an error that says something."""
    return next((line for line in said(exc).splitlines() if line.strip()), type(exc).__name__)


def said(exc: Exception) -> str:
    """An error's message.

    Where a damaged file's bytes lie in it, that is the message, not that Python could not read it.
    """
    return exc.object.decode(errors="replace") if isinstance(exc, UnicodeDecodeError) else str(exc)


def session_options(threads: int) -> Any:
    """Options that every session has: `threads` for one operator, operators one by one."""
    options = library().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Kept for every shape of the input, of which texts have as many as lengths times batches, and
    # each makes the arena larger.
    options.enable_mem_pattern = False
    return options


def open_session(
    path: Path,
    threads: int,
    prepack: bool = True,
    streams: int = 1,
    precision: str | None = None,
) -> OnnxRuntimeEngine:
    """Open a model file; see `cpu_session`.

    The threads that call `run` work too, so `streams` of them and the session's own together are
    `threads`. The weights are there once.
    """
    session = cpu_session(path, threads - streams + 1, prepack, precision)
    return OnnxRuntimeEngine(session, CPU, streams)


def cpu_session(
    path: Path, threads: int, prepack: bool = True, precision: str | None = None
) -> Any:
    """ONNX Runtime's own session. Without `prepack` weights are used where they lie, memory-mapped.

    Where `precision` is a GPU's (`Precision.emulated`), values are rounded to its numbers and
    computed with in the graph's other precision: the optimizer would take the pairs of 8-bit
    integers for kernels whose sums may saturate, and fp8 for ones that it does not have.

    Raises:
        EngineError: the file cannot be loaded, or another provider than the asked one would run.
    """
    options = session_options(threads)
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    row = None if precision is None else PRECISIONS.find(precision)
    if row is not None and row.emulated:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = library().InferenceSession(
            str(path),
            options,
            providers=[CPU],
            disabled_optimizers=DISABLED_OPTIMIZERS,
            # Which prints to standard output, and tries the same again.
            enable_fallback=0,
        )
    except Exception as exc:
        raise EngineError(f"onnxruntime cannot load {path}: {first_line(exc)}") from exc
    check_provider(session, CPU)
    return session


def check_provider(session: Any, wanted: str, reason: str = "") -> None:
    """Make sure that `wanted` leads the session's providers.

    Raises:
        EngineError: ONNX Runtime silently chose another one; `reason` is why, where known.
    """
    running = session.get_providers()
    if running[0] != wanted:
        because = f": {reason}" if reason else ""
        raise EngineError(f"asked for {wanted}, onnxruntime chose {running[0]}{because}")


def accuracy_warning(tower: Artifact) -> str | None:
    """Why an int8 tower with 8-bit weights loses accuracy on this CPU, if it does."""
    from clipperf.system.env import cpu_flags, saturates_int8

    row = PRECISIONS.find(tower.precision)
    if tower.weight_bits != 8 or (row is not None and row.emulated):
        return None
    if not cpu_flags() or not saturates_int8():
        return None
    return (
        "it was exported on a CPU with VNNI and has 8-bit weights, whose sums can saturate on this "
        "CPU, which has none: export it again on this machine (clipperf export MODEL "
        "--precision int8), where it gets 7-bit weights"
    )


def open(request: EngineRequest) -> OnnxRuntimeEngine:
    """Open the artifact's model file with the cell's threads."""
    if request.file is None:
        raise EngineError(f"{request.cell.label}: no artifact was given")
    cell = request.cell
    return open_session(
        Path(request.file), cell.threads, streams=cell.streams, precision=cell.precision
    )
