"""The few CUDA calls that the TensorRT engine makes, through cuda-bindings or pycuda.

Both backends work in the primary context of GPU 0 (CUDA_VISIBLE_DEVICES chooses which one that
is), which TensorRT shares. Sizes are bytes, elapsed times seconds; handles are opaque.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from clipperf.engines.gpu_thread import on_gpu_thread
from clipperf.errors import EngineError, MissingDependencyError
from clipperf.system.env import version_of

T = TypeVar("T")

PACKAGES = ("cuda-bindings", "pycuda")

ADVICE = {
    "cudaErrorInsufficientDriver": "no NVIDIA driver is loaded, or it is too old for the CUDA "
    "runtime; run where nvidia-smi works, with a recent driver",
    "cudaErrorNoDevice": "the driver sees no GPU; check CUDA_VISIBLE_DEVICES, and start a "
    "container with --gpus all",
}
"""What errors mean that users can do something about."""

FOR_GOOD = (
    *("cudaErrorAssert", "cudaErrorContained", "cudaErrorExternalDevice"),
    *("cudaErrorHardwareStackError", "cudaErrorIllegalAddress", "cudaErrorIllegalInstruction"),
    *("cudaErrorInvalidAddressSpace", "cudaErrorInvalidPc", "cudaErrorLaunchFailure"),
    *("cudaErrorLaunchTimeout", "cudaErrorMisalignedAddress", "cudaErrorTensorMemoryLeak"),
)
"""Errors after which a process cannot use CUDA any more, as CUDA's reference says of each."""


SMALLER = "use a smaller --batch"


def package() -> str | None:
    """The installed package that would be used; does not import it."""
    return next((name for name in PACKAGES if version_of(name)), None)


def out_of_memory(size: int | None, free: int | None) -> EngineError:
    """The one text for a full GPU; what is not known (None) is left out."""
    needs = "" if size is None else f": needs {size / 2**20:.0f} MiB"
    left = "" if free is None else f", {free / 2**20:.0f} MiB free"
    return EngineError(f"out of GPU memory{needs}{left}; {SMALLER}")


class Cuda:
    """CUDA's runtime through cuda-bindings, whose functions return (error, value...)."""

    graphs = True

    def __init__(self) -> None:
        from cuda.bindings import runtime as rt

        self._rt = rt
        self._ok(rt.cudaGetDeviceCount())
        self._ok(rt.cudaSetDevice(0))
        facts = self._ok(rt.cudaGetDeviceProperties(0))
        self.gpu = facts.name.decode().rstrip("\0")
        self.kind = f"sm{facts.major}{facts.minor}"

    def _ok(self, result: tuple[Any, ...]) -> Any:
        """The value of a call, or EngineError with the name of CUDA's error."""
        error, *values = result
        if error == self._rt.cudaError_t.cudaSuccess:
            return values[0] if len(values) == 1 else tuple(values)
        text = ADVICE.get(error.name) or self._rt.cudaGetErrorString(error)[1].decode()
        if error.name in FOR_GOOD:
            text += "; this process cannot use the GPU any more, start it again"
        raise EngineError(f"CUDA: {text} ({error.name})")

    def free_bytes(self) -> int:
        """What is free on the GPU now."""
        return int(self._ok(self._rt.cudaMemGetInfo())[0])

    def device_alloc(self, size: int) -> Any:
        """Device memory; `int()` of it is its address."""
        result = self._rt.cudaMalloc(size)
        if result[0] == self._rt.cudaError_t.cudaErrorMemoryAllocation:
            raise out_of_memory(size, self.free_bytes())
        return self._ok(result)

    def device_free(self, memory: Any) -> None:
        """Free device memory."""
        self._ok(self._rt.cudaFree(memory))

    def host_alloc(self, size: int) -> np.ndarray:
        """Pinned host memory as uint8 [size]."""
        result = self._rt.cudaHostAlloc(size, self._rt.cudaHostAllocDefault)
        if result[0] == self._rt.cudaError_t.cudaErrorMemoryAllocation:
            needs = f"{size / 2**20:.0f} MiB"
            raise EngineError(f"out of memory to pin on the host: needs {needs}; {SMALLER}")
        address = self._ok(result)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def host_free(self, array: np.ndarray) -> None:
        """Free pinned memory; the array and its views must not be used again."""
        self._ok(self._rt.cudaFreeHost(array.ctypes.data))

    def stream(self) -> Any:
        """A stream that never waits for the default one."""
        return self._ok(self._rt.cudaStreamCreateWithFlags(self._rt.cudaStreamNonBlocking))

    def stream_handle(self, stream: Any) -> int:
        """The stream as the integer that TensorRT takes."""
        return int(stream)

    def stream_free(self, stream: Any) -> None:
        """Destroy a stream."""
        self._ok(self._rt.cudaStreamDestroy(stream))

    def synchronize(self, stream: Any) -> None:
        """Wait until all work of a stream is done; errors of that work surface here."""
        self._ok(self._rt.cudaStreamSynchronize(stream))

    def to_device(self, address: int, source: np.ndarray, stream: Any) -> None:
        """Queue a copy of pinned memory to a device address."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._ok(self._rt.cudaMemcpyAsync(address, source.ctypes.data, source.nbytes, kind, stream))

    def to_host(self, target: np.ndarray, address: int, stream: Any) -> None:
        """Queue a copy from a device address that fills pinned memory."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._ok(self._rt.cudaMemcpyAsync(target.ctypes.data, address, target.nbytes, kind, stream))

    def event(self) -> Any:
        """An event that keeps time."""
        return self._ok(self._rt.cudaEventCreate())

    def event_free(self, event: Any) -> None:
        """Destroy an event."""
        self._ok(self._rt.cudaEventDestroy(event))

    def record(self, event: Any, stream: Any) -> None:
        """Put an event into a stream."""
        self._ok(self._rt.cudaEventRecord(event, stream))

    def elapsed_s(self, start: Any, end: Any) -> float:
        """Seconds between two events that have happened."""
        return float(self._ok(self._rt.cudaEventElapsedTime(start, end))) / 1e3

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """What `enqueue` puts on the stream as a graph, without running it."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ok(self._rt.cudaStreamBeginCapture(stream, mode))
        try:
            enqueue()
            graph = self._ok(self._rt.cudaStreamEndCapture(stream))
        except BaseException:  # an interruption, too, would leave a stream that runs nothing
            # Out of capture mode, whatever it answers; the first error counts.
            error, left = self._rt.cudaStreamEndCapture(stream)
            if error == self._rt.cudaError_t.cudaSuccess:
                self._rt.cudaGraphDestroy(left)
            raise
        executable = None
        try:
            executable = self._ok(self._rt.cudaGraphInstantiate(graph, 0))
        finally:
            try:
                self._rt.cudaGraphDestroy(graph)  # what it answers changes nothing for the other
            except BaseException:  # an interruption, which nobody else would free this after
                if executable is not None:
                    self._rt.cudaGraphExecDestroy(executable)
                raise
        return executable

    def there(self, call: Callable[[], T]) -> T:
        """Call something on the thread that calls the GPU; see `engines.gpu_thread`."""
        return on_gpu_thread(call)

    def launch(self, graph: Any, stream: Any) -> None:
        """Queue a captured graph."""
        self._ok(self._rt.cudaGraphLaunch(graph, stream))

    def graph_free(self, graph: Any) -> None:
        """Destroy a captured graph."""
        self._ok(self._rt.cudaGraphExecDestroy(graph))


@contextlib.contextmanager
def _pycuda_errors() -> Iterator[None]:
    import pycuda.driver as driver

    try:
        yield
    except driver.Error as exc:
        raise EngineError(f"CUDA: {exc}") from exc


class PyCuda(Cuda):
    """The same calls through pycuda, which has no graphs; used by the thread that opened it."""

    graphs = False

    @_pycuda_errors()
    def __init__(self) -> None:
        import pycuda.driver as driver

        self._driver, self._thread = driver, threading.get_ident()
        driver.init()
        device = driver.Device(0)
        context = device.retain_primary_context()
        context.push()
        # pycuda aborts the process at its end when a context is still current.
        atexit.register(context.pop)
        self.gpu = device.name()
        self.kind = "sm{}{}".format(*device.compute_capability())

    def there(self, call: Callable[[], T]) -> T:
        """Call something here: pycuda's context is current in the thread that opened it alone.

        Raises:
            EngineError: this is another thread.
        """
        if threading.get_ident() != self._thread:
            raise EngineError(
                "with pycuda one thread alone may use the GPU, the one that used it first: call "
                "from there, or install cuda-bindings"
            )
        return call()

    @_pycuda_errors()
    def free_bytes(self) -> int:
        return int(self._driver.mem_get_info()[0])

    @_pycuda_errors()
    def device_alloc(self, size: int) -> Any:
        try:
            return self._driver.mem_alloc(size)
        except self._driver.MemoryError as exc:
            raise out_of_memory(size, self.free_bytes()) from exc

    @_pycuda_errors()
    def device_free(self, memory: Any) -> None:
        memory.free()

    @_pycuda_errors()
    def host_alloc(self, size: int) -> np.ndarray:
        array: np.ndarray = self._driver.pagelocked_empty(size, np.uint8)
        return array

    @_pycuda_errors()
    def host_free(self, array: Any) -> None:
        array.base.free()

    @_pycuda_errors()
    def stream(self) -> Any:
        return self._driver.Stream()

    def stream_handle(self, stream: Any) -> int:
        return int(stream.handle)

    def stream_free(self, stream: Any) -> None:
        """Nothing to do: it goes with its last reference. So do events."""

    @_pycuda_errors()
    def synchronize(self, stream: Any) -> None:
        stream.synchronize()

    @_pycuda_errors()
    def to_device(self, address: int, source: np.ndarray, stream: Any) -> None:
        self._driver.memcpy_htod_async(address, source, stream)

    @_pycuda_errors()
    def to_host(self, target: np.ndarray, address: int, stream: Any) -> None:
        self._driver.memcpy_dtoh_async(target, address, stream)

    @_pycuda_errors()
    def event(self) -> Any:
        return self._driver.Event()

    def event_free(self, event: Any) -> None:
        pass

    @_pycuda_errors()
    def record(self, event: Any, stream: Any) -> None:
        event.record(stream)

    @_pycuda_errors()
    def elapsed_s(self, start: Any, end: Any) -> float:
        return float(start.time_till(end)) / 1e3


@functools.cache
def open_cuda() -> Cuda:
    """The backend of this process.

    Raises:
        MissingDependencyError: neither package is installed.
        EngineError: there is no GPU or no driver.
    """
    found = package()
    if found is None:
        raise MissingDependencyError(
            "neither cuda-bindings nor pycuda is installed: pip install cuda-bindings"
        )
    try:
        return on_gpu_thread(Cuda) if found == "cuda-bindings" else PyCuda()
    except ImportError as exc:
        raise EngineError(f"{found} is installed and cannot be imported: {exc}") from exc
