"""OpenVINO on the CPU: an IR or an ONNX file. Needs numpy and openvino, and never imports torch."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines import openvino_cache, openvino_first
from clipperf.engines.contract import REPLACED, Availability, failed_run, is_out_of_memory
from clipperf.engines.openvino_shapes import SHAPES, near_lengths, one_cache
from clipperf.engines.processor import check_cell
from clipperf.errors import EngineError, StorageError
from clipperf.nouns.cell import EngineRequest
from clipperf.nouns.variant import BASELINE_PRECISION, BFLOAT16, PRECISIONS
from clipperf.system import extras
from clipperf.system.env import available_cores, version_of
from clipperf.system.files import staged
from clipperf.system.mapped import MappedFile
from clipperf.system.processes import trim_heap
from clipperf.system.quiet import hush_openvino
from clipperf.system.reading import stamps
from clipperf.system.sealed import folder_is_whole

HINT = "INFERENCE_PRECISION_HINT"

LEAN_BYTES = 128 * 2**20
"""Weights that are larger are not in RAM a second time beside the copy that OpenVINO lays out; its
own cache cannot be used then. Below, what is saved is not worth compiling anew with every load."""


def availability(device: str) -> Availability:
    """Whether OpenVINO is installed."""
    if importlib.util.find_spec("openvino") is None:
        return Availability(False, "openvino is not installed", extras.bring("openvino"))
    return Availability(True, f"openvino {version_of('openvino') or 'unknown version'}")


def library() -> Any:
    """The package, imported here, so that it never reports about its users."""
    hush_openvino()
    import openvino

    return openvino


Compiled = tuple[Any, MappedFile | None]
"""A compiled tower, and the weights that it reads, which have to outlive it; None: its own."""


class OpenVinoEngine:
    """One compiled tower with a single input, and embeddings for its first output.

    A run that failed, for want of memory for one, leaves what it had begun in OpenVINO's graph,
    which then fails on other shapes, too. The next run compiles the tower again.
    """

    provider = "CPU"

    def __init__(self, compiling: Callable[[], Compiled], streams: int = 1) -> None:
        """`compiling` compiles the tower, now and after a failure."""
        self._compiling = compiling
        self._lock = threading.Lock()
        self._closed = self._spoilt = False
        self._laid_out: set[tuple[int, tuple[int, ...]]] = set()
        self.streams = streams
        self.token_buckets = near_lengths()
        self._begin()

    def _begin(self) -> None:
        """Compile the tower; what was compiled before is let go of first."""
        free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._compiled: Any = None
        self._free = free
        self._weights: MappedFile | None = None
        self._laid_out.clear()
        compiled, self._weights = self._compiling()
        self._compiled = compiled
        for _ in range(self.streams):
            free.put(self._request_of(compiled))
        self._spoilt = False

    def _request_of(self, compiled: Any) -> Any:
        try:
            return compiled.create_infer_request()
        except (RuntimeError, MemoryError) as exc:
            raise run_error(exc, 1) from exc

    def _take(self) -> tuple[Any, queue.SimpleQueue[Any], MappedFile | None]:
        """A request that nobody else runs now, the queue to put it back into, and its weights."""
        while True:
            with self._lock:
                if self._closed:
                    raise EngineError("this engine is closed")
                if self._spoilt:
                    self._begin()
                free, weights = self._free, self._weights
            request = free.get()
            with self._lock:
                # Meanwhile the run that was waited for may have failed. Where this engine was
                # closed the request is as good as before.
                if self._closed or (free is self._free and not self._spoilt):
                    return request, free, weights
            free.put(request)
            del request

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch; returns float32 [batch, embed_dim]."""
        return self._outputs(array, 1)[0]

    def run_features(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `run`, and the features [batch, width]; see `contract`."""
        found = self._outputs(array, 2)
        return found[0], found[-1]

    def _outputs(self, array: np.ndarray, most: int) -> list[np.ndarray]:
        """The first outputs, `most` of them."""
        # Another thread may close this engine meanwhile, or have it compiled again.
        request, free, weights = self._take()
        shape = (id(request), array.shape)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(openvino_first.run())
                if weights is not None and shape not in self._laid_out:
                    # Here OpenVINO lays out what it has not yet.
                    stack.enter_context(weights.passing())
                found = request.infer({0: array}, share_inputs=True)
            if shape not in self._laid_out:
                with self._lock:
                    if free is self._free:  # else the number is soon another request's
                        self._laid_out.add(shape)
            # The request writes its next result into the same memory. Its shape is no matter of
            # course: behind a last product in int8 OpenVINO leaves out the squeeze (1, batch, dim).
            places = range(min(most, len(found)))
            result = [
                np.array(found[place], np.float32).reshape(len(array), -1) for place in places
            ]
        except (RuntimeError, MemoryError) as exc:
            with self._lock:
                self._spoilt |= free is self._free
            # Who handles the error must not hold by it what is compiled anew meanwhile.
            traceback.clear_frames(exc.__traceback__)
            raise run_error(exc, len(array)) from exc
        finally:
            free.put(request)
            # The request may be the last to hold the tower, and goes before its weights.
            del request, free
            del weights
        return result

    def close(self) -> None:
        """Free the tower."""
        with self._lock:
            self._closed = True
            self._compiled = None
            self._free = queue.SimpleQueue()
            self._weights = None


def open_compiled(
    path: Path,
    threads: int,
    streams: int = 1,
    cache: Path | None = None,
    precision: str = BASELINE_PRECISION,
) -> OpenVinoEngine:
    """Open a model file (.xml with its .bin, or .onnx) with `threads` over all `streams`.

    One stream gives the shortest latency. Threads stay within the cores that this process may
    use and are not bound to single ones, as in the other runtimes. Weights are memory-mapped.
    What is compiled is kept in the folder `cache`, or taken from there, without its weights,
    unless these are large (`is_large`). Whatever is not quantised is computed in the floats of
    `precision`.

    Raises:
        EngineError: the file cannot be read or compiled, or other floats would be computed with.
    """
    # As asked for: where a CPU has bf16, OpenVINO would take that for its own choice, and where it
    # has none, it would compute in float32 without a word.
    floats = hint_of(precision)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "INFERENCE_NUM_THREADS": min(threads, available_cores()),
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,
        HINT: floats,
        "CPU_RUNTIME_CACHE_CAPACITY": SHAPES,
    }
    path = path.absolute()
    cached = {} if cache is None else {"CACHE_DIR": str(cache), "CACHE_MODE": "OPTIMIZE_SIZE"}
    files = (path, openvino_cache.weights_of(path))
    first = stamps(files)

    def compiling() -> Compiled:
        given, weights = {**settings, **cached}, None
        cached.clear()  # its place is moved once it is full
        if stamps(files) != first:
            raise EngineError(REPLACED.format(path=path))
        try:
            with one_cache():
                if is_large(path):
                    weights = MappedFile(openvino_cache.weights_of(path))
                    compiled = _compiled_lean(path, weights, given)
                    trim_heap()  # what compiling took
                else:
                    compiled = library().Core().compile_model(path, "CPU", given)
        except (RuntimeError, MemoryError, OSError) as exc:
            why = "out of memory" if is_out_of_memory(exc) else reason(exc)
            raise EngineError(f"openvino cannot load {path}: {why}") from exc
        taken = compiled.get_property(HINT).get_type_name()
        if taken != floats:
            raise EngineError(f"openvino would compute in {taken}, not in {floats} as asked for")
        return compiled, weights

    return OpenVinoEngine(compiling, streams)


def is_large(path: Path) -> bool:
    """Whether a model file is an IR with weights from `LEAN_BYTES` on, whose RAM can be let go."""
    try:
        large = (
            path.suffix == ".xml" and openvino_cache.weights_of(path).stat().st_size >= LEAN_BYTES
        )
    except OSError:
        return False  # opening it says why
    return large and sys.platform == "linux"


def _compiled_lean(path: Path, weights: MappedFile, settings: dict[str, Any]) -> Any:
    """Compile an IR from mapped weights, whose pages are let go of as soon as they are laid out."""
    openvino = library()
    size = weights.values.size
    # The bindings share memory that can be written to, which this only seems to be; as in a mapping
    # of OpenVINO's own, nothing writes to weights.
    memory = (ctypes.c_uint8 * size).from_address(weights.values.ctypes.data)
    shared = openvino.Tensor(np.ctypeslib.as_array(memory), shared_memory=True)
    with weights.passing():
        core = openvino.Core()
        return core.compile_model(core.read_model(path.read_bytes(), shared), "CPU", settings)


def hint_of(precision: str) -> str:
    """OpenVINO's name of the floats that a precision computes in."""
    return "bf16" if PRECISIONS.get(precision).floats == BFLOAT16 else "f32"


def run_error(exc: Exception, batch: int) -> EngineError:
    """OpenVINO's error in one line; see `failed_run`."""
    return failed_run("openvino", exc, batch, reason(exc))


def reason(exc: Exception) -> str:
    """The last line of OpenVINO's error: places in its own source come first."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__


def open(request: EngineRequest) -> OpenVinoEngine:
    """Open the artifact's model file with the cell's threads, compiled before where it was.

    Where nothing can be kept, or what was kept cannot be used, it is compiled; a large one always.

    Raises:
        UnsupportedError: the processor does not multiply the cell's precision.
    """
    if request.path is None:
        raise EngineError(f"{request.cell.label}: no artifact was given")
    path, cell = Path(request.path), request.cell
    check_cell(cell)
    compiled = partial(open_compiled, path, cell.threads, cell.streams, precision=cell.precision)
    folder = None if is_large(path) else openvino_cache.cache_folder(request, SHAPES)
    engine = None
    if folder is not None:
        with contextlib.suppress(EngineError, StorageError):
            if folder_is_whole(folder):
                return compiled(cache=folder)
            with staged(folder) as staging:
                engine = compiled(cache=staging)
                openvino_cache.seal(staging)
    if engine is not None:  # kept or not
        return engine
    return compiled()
