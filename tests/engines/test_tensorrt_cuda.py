"""The CUDA layer without a GPU: its calls against the installed package, its errors, pycuda."""

from __future__ import annotations

import ast
import ctypes
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperf.engines.gpu_thread import on_gpu_thread
from clipperf.engines.tensorrt import cuda as cuda_driver
from clipperf.errors import EngineError, MissingDependencyError
from clipperf.system.env import gpu_state

rt = pytest.importorskip("cuda.bindings.runtime")

OK = rt.cudaError_t.cudaSuccess


class FakeRuntime:
    """The installed package with some functions replaced; `calls` notes those, in order."""

    def __init__(self, **functions: Callable[..., tuple[Any, ...]]) -> None:
        self._functions = functions
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in self._functions:
            return getattr(rt, name)

        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, *args))
            return self._functions[name](*args)

        return call


def layer(**functions: Callable[..., tuple[Any, ...]]) -> tuple[cuda_driver.Cuda, FakeRuntime]:
    cuda = cuda_driver.Cuda.__new__(cuda_driver.Cuda)
    fake = FakeRuntime(**functions)
    cuda._rt = fake
    return cuda, fake


# --- the installed package -------------------------------------------------------------------


def used() -> list[tuple[str, int | None]]:
    """Every name of CUDA's that the layer uses, with its number of arguments where called."""
    tree = ast.parse(Path(cuda_driver.__file__).read_text())
    calls = {id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [
        (node.attr, calls.get(id(node)))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("cuda") and node.attr != "cuda"
    ]


def test_every_function_exists_with_that_many_arguments() -> None:
    calls = {(name, n) for name, n in used() if n is not None}
    assert len(calls) > 20
    for name, n in calls:
        signature = getattr(rt, name).__doc__.splitlines()[0]
        inside = signature[signature.index("(") + 1 : signature.rindex(")")]
        assert n == (len(inside.split(",")) if inside else 0), signature


def test_every_constant_exists() -> None:
    enums = (rt, rt.cudaError_t, rt.cudaMemcpyKind, rt.cudaStreamCaptureMode)
    for name, n in used():
        assert n is not None or any(hasattr(place, name) for place in enums), name


def test_advice_names_real_errors() -> None:
    for name in cuda_driver.ADVICE:
        assert hasattr(rt.cudaError_t, name)


def test_errors_for_good_are_those_of_which_cudas_reference_says_so() -> None:
    """In its words the process "must be terminated and relaunched"; two do not come from work."""
    said = {e.name for e in rt.cudaError_t if "relaunched" in (getattr(e, "__doc__", "") or "")}
    assert set(cuda_driver.FOR_GOOD) <= said, set(cuda_driver.FOR_GOOD) - said


@pytest.mark.skipif(gpu_state()[0] is not None, reason="there is a GPU")
def test_no_driver_is_one_clear_error() -> None:
    with pytest.raises(EngineError, match="nvidia-smi") as caught:
        cuda_driver.open_cuda()
    text = str(caught.value)
    assert "cudaErrorInsufficientDriver" in text or "cudaErrorNoDevice" in text
    assert "\n" not in text


def test_no_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "version_of", lambda name: None)
    cuda_driver.open_cuda.cache_clear()
    with pytest.raises(MissingDependencyError, match="pip install cuda-bindings"):
        cuda_driver.open_cuda()


def test_cuda_bindings_come_before_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "version_of", lambda name: "1.0")
    assert cuda_driver.package() == "cuda-bindings"
    monkeypatch.setattr(cuda_driver, "version_of", lambda name: "1.0" if name == "pycuda" else None)
    assert cuda_driver.package() == "pycuda"


# --- conventions of cuda-bindings ------------------------------------------------------------


def test_out_of_memory_says_how_much_is_needed_and_free() -> None:
    cuda, _ = layer(
        cudaMalloc=lambda size: (rt.cudaError_t.cudaErrorMemoryAllocation, None),
        cudaMemGetInfo=lambda: (OK, 3 * 2**20, 8 * 2**20),
    )
    with pytest.raises(EngineError) as caught:
        cuda.device_alloc(5 * 2**20)
    assert str(caught.value) == (
        "out of GPU memory: needs 5 MiB, 3 MiB free; use a smaller --batch"
    )


def test_an_error_has_cudas_name_and_words() -> None:
    cuda, _ = layer(
        cudaStreamSynchronize=lambda s: (rt.cudaError_t.cudaErrorIllegalAddress,),
    )
    with pytest.raises(EngineError, match=r"illegal memory access.*\(cudaErrorIllegalAddress\)"):
        cuda.synchronize(rt.cudaStream_t(0))


def test_pinned_memory_is_cudas_own_and_is_freed_by_its_address() -> None:
    memory = (ctypes.c_uint8 * 16)()
    address = ctypes.addressof(memory)
    cuda, fake = layer(
        cudaHostAlloc=lambda size, flags: (OK, address), cudaFreeHost=lambda pointer: (OK,)
    )
    array = cuda.host_alloc(16)
    array[:8].view(np.float32)[:] = (1.5, -2.0)
    assert array.shape == (16,)
    assert np.frombuffer(memory, np.float32)[:2].tolist() == [1.5, -2.0]
    cuda.host_free(array)
    assert fake.calls[-1] == ("cudaFreeHost", address)


def test_copies_pass_addresses_and_bytes() -> None:
    cuda, fake = layer(cudaMemcpyAsync=lambda *args: (OK,))
    part = np.zeros(10, np.uint8)[2:6]
    stream = rt.cudaStream_t(7)
    cuda.to_device(4096, part, stream)
    cuda.to_host(part, 8192, stream)
    kind = rt.cudaMemcpyKind
    here = part.ctypes.data
    assert fake.calls == [
        ("cudaMemcpyAsync", 4096, here, 4, kind.cudaMemcpyHostToDevice, stream),
        ("cudaMemcpyAsync", here, 8192, 4, kind.cudaMemcpyDeviceToHost, stream),
    ]
    assert cuda.stream_handle(stream) == 7


def test_the_real_memcpy_takes_these_arguments() -> None:
    """Without a driver CUDA refuses the call, but only after it has understood the arguments."""
    cuda = cuda_driver.Cuda.__new__(cuda_driver.Cuda)
    cuda._rt = rt
    if gpu_state()[0] is not None:
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="CUDA: "):
        cuda.to_device(4096, np.zeros(4, np.uint8), rt.cudaStream_t(0))
    with pytest.raises(EngineError, match="CUDA: "):
        cuda.host_alloc(16)
    with pytest.raises(EngineError, match="CUDA: "):
        cuda.capture(rt.cudaStream_t(0), lambda: None)
    with pytest.raises(EngineError, match="CUDA: "):
        cuda.launch(rt.cudaGraphExec_t(0), rt.cudaStream_t(0))
    with pytest.raises(EngineError, match="CUDA: "):
        cuda.elapsed_s(rt.cudaEvent_t(0), rt.cudaEvent_t(0))


def test_elapsed_time_is_seconds() -> None:
    cuda, _ = layer(cudaEventElapsedTime=lambda a, b: (OK, 2.5))
    assert cuda.elapsed_s(None, None) == 0.0025


def graph_layer() -> tuple[cuda_driver.Cuda, FakeRuntime]:
    return layer(
        cudaStreamBeginCapture=lambda stream, mode: (OK,),
        cudaStreamEndCapture=lambda stream: (OK, "graph"),
        cudaGraphInstantiate=lambda graph, flags: (OK, "exec"),
        cudaGraphDestroy=lambda graph: (OK,),
    )


def test_capture_keeps_the_executable_and_frees_the_graph() -> None:
    cuda, fake = graph_layer()
    assert cuda.capture("stream", lambda: fake.calls.append(("work",))) == "exec"
    assert [call[0] for call in fake.calls] == [
        "cudaStreamBeginCapture",
        "work",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphDestroy",
    ]


def test_a_failed_capture_leaves_capture_mode_and_tells_the_first_error() -> None:
    cuda, fake = graph_layer()

    def fails() -> None:
        raise EngineError("the work cannot be captured")

    with pytest.raises(EngineError, match="cannot be captured"):
        cuda.capture("stream", fails)
    assert [call[0] for call in fake.calls] == [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphDestroy",  # there may be one, of what was captured before
    ]


# --- pycuda ----------------------------------------------------------------------------------


class Allocation:
    """A DeviceAllocation or PagelockedHostAllocation of pycuda."""

    def __init__(self, log: list[Any], size: int) -> None:
        self._log = log
        self._size = size
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
            "data": (ctypes.addressof(self._memory()), False),
        }

    def _memory(self) -> Any:
        self._kept = (ctypes.c_uint8 * max(1, self._size))()
        return self._kept

    def __int__(self) -> int:
        return 4096

    def free(self) -> None:
        self._log.append(("free", self._size))


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A recording stand-in for the package; returns its log of calls."""
    log: list[Any] = []
    driver: Any = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class OutOfMemory(Error, MemoryError):
        pass

    class Context:
        def push(self) -> None:
            log.append("push")

        @staticmethod
        def pop() -> None:
            log.append("pop")

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        def retain_primary_context(self) -> Context:
            return Context()

        def name(self) -> str:
            return "GPU"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 9

    class Stream:
        handle = 7

        def synchronize(self) -> None:
            raise Error("cuStreamSynchronize failed: an illegal memory access was encountered")

    class Event:
        def record(self, stream: Stream) -> Event:
            log.append(("record", stream.handle))
            return self

        def time_till(self, other: Event) -> float:
            return 4.0

    def mem_alloc(size: int) -> Allocation:
        if size > 100:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        return Allocation(log, size)

    driver.Error, driver.MemoryError = Error, OutOfMemory
    driver.Device, driver.Stream, driver.Event = Device, Stream, Event
    driver.init = lambda: log.append("init")
    driver.mem_alloc = mem_alloc
    driver.mem_get_info = lambda: (2**20, 2**21)
    driver.pagelocked_empty = lambda shape, dtype: np.asarray(Allocation(log, shape))
    driver.memcpy_htod_async = lambda d, s, stream: log.append(("in", d, s.nbytes, stream.handle))
    driver.memcpy_dtoh_async = lambda d, s, stream: log.append(("out", d.nbytes, s, stream.handle))
    package: Any = types.ModuleType("pycuda")
    package.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(
        cuda_driver.atexit, "register", lambda function: log.append(function.__name__)
    )
    return log


def test_pycuda_opens_the_primary_context_and_leaves_it_at_exit(pycuda: list[Any]) -> None:
    cuda = cuda_driver.PyCuda()
    assert pycuda == ["init", "push", "pop"]
    assert (cuda.gpu, cuda.kind, cuda.graphs) == ("GPU", "sm89", False)


def test_calls_are_made_where_their_context_is(pycuda: list[Any]) -> None:
    """CUDA's runtime has one for all threads; pycuda's belongs to the thread that opened it."""
    where = object.__new__(cuda_driver.Cuda).there(threading.get_ident)
    assert where == on_gpu_thread(threading.get_ident) != threading.get_ident()
    opened = cuda_driver.PyCuda()
    assert opened.there(threading.get_ident) == threading.get_ident()
    with pytest.raises(EngineError, match="one thread alone may use the GPU"):
        on_gpu_thread(lambda: opened.there(threading.get_ident))


def test_pycuda_makes_the_same_calls(pycuda: list[Any]) -> None:
    cuda = cuda_driver.PyCuda()
    pycuda.clear()
    memory = cuda.device_alloc(64)
    stream = cuda.stream()
    assert (int(memory), cuda.stream_handle(stream), cuda.free_bytes()) == (4096, 7, 2**20)
    host = cuda.host_alloc(16)
    assert (host.dtype, host.shape) == (np.uint8, (16,))
    cuda.to_device(4096, host[:8], stream)
    cuda.to_host(host, 4096, stream)
    first, last = cuda.event(), cuda.event()
    cuda.record(first, stream)
    assert cuda.elapsed_s(first, last) == 0.004
    cuda.host_free(host)
    cuda.device_free(memory)
    assert pycuda == [
        ("in", 4096, 8, 7), ("out", 16, 4096, 7), ("record", 7), ("free", 16), ("free", 64),
    ]  # fmt: skip


def test_pycudas_errors_are_translated(pycuda: list[Any]) -> None:
    cuda = cuda_driver.PyCuda()
    with pytest.raises(EngineError, match="needs 10 MiB, 1 MiB free; use a smaller --batch"):
        cuda.device_alloc(10 * 2**20)
    with pytest.raises(EngineError, match=r"CUDA: .*illegal memory access"):
        cuda.synchronize(cuda.stream())


def test_pycuda_overrides_every_call_that_the_engine_makes_without_graphs() -> None:
    calls = {name for name, value in vars(cuda_driver.Cuda).items() if callable(value)}
    assert calls - set(vars(cuda_driver.PyCuda)) == {"_ok", "capture", "launch", "graph_free"}
