"""The CUDA that stands in for a GPU (`cuda_rules`) keeps CUDA's rules, each shown by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cuda_rules import LEGACY, WORDS, Gpu, Work, driver, early, late
from cuda_rules import cudaError_t as errors
from cuda_rules import cudaMemcpyKind as kinds
from cuda_rules import cudaStreamCaptureMode as modes

from clipperf.errors import EngineError

LOCAL = modes.cudaStreamCaptureModeThreadLocal


def ok(result: tuple[Any, ...]) -> Any:
    """The value of a call that has to succeed."""
    assert result[0] == errors.cudaSuccess, result
    return result[1] if len(result) == 2 else result[1:]


def stream(gpu: Gpu, *, blocking: bool = False) -> int:
    handle: int = ok(gpu.cudaStreamCreateWithFlags(0 if blocking else gpu.cudaStreamNonBlocking))
    return handle


def pinned(gpu: Gpu, values: list[float]) -> np.ndarray:
    array = driver(gpu).host_alloc(4 * len(values)).view(np.float32)
    array[:] = values
    return array


def bring(gpu: Gpu, device: int, host: np.ndarray, on: int) -> errors:
    error: errors = gpu.cudaMemcpyAsync(
        device, host.ctypes.data, host.nbytes, kinds.cudaMemcpyHostToDevice, on
    )[0]
    return error


def take(gpu: Gpu, host: np.ndarray, device: int, on: int) -> errors:
    error: errors = gpu.cudaMemcpyAsync(
        host.ctypes.data, device, host.nbytes, kinds.cudaMemcpyDeviceToHost, on
    )[0]
    return error


def device(gpu: Gpu, address: int, count: int) -> list[float]:
    """What lies in device memory now."""
    values: list[float] = gpu.at(address, 4 * count).view(np.float32).tolist()
    return values


def elsewhere(function: Callable[[], Any]) -> Any:
    """What a function gives in another thread."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_names_numbers_and_words_are_those_of_the_installed_package() -> None:
    rt = pytest.importorskip("cuda.bindings.runtime")
    for ours, theirs in ((errors, rt.cudaError_t), (kinds, rt.cudaMemcpyKind)):
        for member in ours:
            assert getattr(theirs, member.name).value == member.value
    for mode in modes:
        assert getattr(rt.cudaStreamCaptureMode, mode.name).value == mode.value
    for error in WORDS:
        real = getattr(rt.cudaError_t, error.name)
        assert rt.cudaGetErrorString(real)[1].decode() == WORDS[error]
    for name in [*vars(Gpu), *("cudaHostAllocDefault", "cudaStreamNonBlocking")]:
        if name.startswith("cuda"):
            assert hasattr(rt, name), name
    assert (rt.cudaHostAllocDefault, rt.cudaStreamNonBlocking) == (0, 1)


# --- copies ----------------------------------------------------------------------------------


def test_a_copy_from_pinned_memory_reads_it_when_its_turn_comes() -> None:
    gpu = Gpu(pace=late)
    memory, host, on = ok(gpu.cudaMalloc(8)), pinned(gpu, [1, 2]), stream(gpu)
    assert bring(gpu, memory, host, on) == errors.cudaSuccess
    assert np.isnan(device(gpu, memory, 2)).all(), "memory is not cleared, and nothing came yet"
    host[:] = [5, 6]
    ok((*gpu.cudaStreamSynchronize(on), None))
    assert device(gpu, memory, 2) == [5, 6]
    assert gpu.broken == ["pinned memory was overwritten before its copy had run"]


def test_a_copy_that_is_done_no_longer_needs_its_source() -> None:
    gpu = Gpu(pace=early)
    memory, host, on = ok(gpu.cudaMalloc(8)), pinned(gpu, [1, 2]), stream(gpu)
    bring(gpu, memory, host, on)
    gpu.cudaMemGetInfo()  # time passes
    host[:] = [5, 6]
    gpu.cudaStreamSynchronize(on)
    assert (device(gpu, memory, 2), gpu.broken) == ([1, 2], [])


def test_pageable_memory_is_staged() -> None:
    gpu = Gpu(pace=late)
    memory, on = ok(gpu.cudaMalloc(8)), stream(gpu)
    host = np.array([1, 2], np.float32)
    bring(gpu, memory, host, on)
    host[:] = [5, 6]
    assert np.isnan(device(gpu, memory, 2)).all(), "staged, not there yet"
    back = np.zeros(2, np.float32)
    take(gpu, back, memory, on)
    assert back.tolist() == [1, 2], "this way it returns with the copy done"
    assert gpu.broken == []


def test_a_result_in_pinned_memory_means_nothing_before_the_stream_was_waited_for() -> None:
    gpu = Gpu(pace=late)
    memory, on = ok(gpu.cudaMalloc(8)), stream(gpu)
    bring(gpu, memory, pinned(gpu, [1, 2]), on)
    back = pinned(gpu, [7, 8])
    take(gpu, back, memory, on)
    assert np.isnan(back).all()
    gpu.cudaStreamSynchronize(on)
    assert back.tolist() == [1, 2]


def test_only_memory_that_is_there_can_be_copied_to() -> None:
    gpu = Gpu()
    memory, host, on = ok(gpu.cudaMalloc(8)), pinned(gpu, [1, 2, 3]), stream(gpu)
    assert bring(gpu, memory, host, on) == errors.cudaErrorInvalidValue, "12 bytes into 8"
    assert gpu.broken.pop() == "12 bytes of device memory were used that are not allocated"
    gpu.cudaFree(memory)
    assert bring(gpu, memory, host[:2], on) == errors.cudaErrorInvalidValue
    assert gpu.broken.pop() == "8 bytes of device memory were used that are not allocated"
    memory = ok(gpu.cudaMalloc(8))
    gpu.cudaFreeHost(host.ctypes.data)
    assert np.isnan(host).all()
    assert bring(gpu, memory, host[:2], on) == errors.cudaErrorInvalidValue
    assert gpu.broken.pop() == "freed pinned memory was given to a copy"
    host[:] = 0
    gpu.check_freed()
    assert gpu.broken == ["freed pinned memory was written"]


# --- order -----------------------------------------------------------------------------------


def order(gpu: Gpu, *on: int) -> list[int]:
    """The order in which work of 1, 2, 3... is done that is put into these streams one by one."""
    done: list[int] = []
    for number, handle in enumerate(on, 1):
        gpu.put(handle, Work(f"work {number}", lambda now, number=number: done.append(number)))
    for handle in {*on}:
        gpu.cudaStreamSynchronize(handle)
    return done


def test_streams_keep_their_own_order_alone() -> None:
    seconds = {"work 1": 5.0, "work 2": 1.0, "work 3": 1.0}
    gpu = Gpu(pace=seconds.__getitem__)
    one, other = stream(gpu), stream(gpu)
    assert order(gpu, one, one, other) == [3, 1, 2]


def test_the_default_stream_waits_for_blocking_streams_and_they_for_it() -> None:
    seconds = {"work 1": 5.0, "work 2": 1.0, "work 3": 1.0}
    gpu = Gpu(pace=seconds.__getitem__)
    assert order(gpu, stream(gpu), LEGACY, stream(gpu)) == [2, 3, 1]
    gpu = Gpu(pace=seconds.__getitem__)
    assert order(gpu, stream(gpu, blocking=True), LEGACY, stream(gpu, blocking=True)) == [1, 2, 3]


def test_events_tell_the_time_of_their_turn() -> None:
    gpu = Gpu(pace=lambda kind: 2.0 if kind == "h2d" else 0.0, step=0.0)
    memory, host, on = ok(gpu.cudaMalloc(8)), pinned(gpu, [1, 2]), stream(gpu)
    first, last = ok(gpu.cudaEventCreate()), ok(gpu.cudaEventCreate())
    assert gpu.cudaEventElapsedTime(first, last)[0] == errors.cudaErrorInvalidResourceHandle
    gpu.cudaEventRecord(first, on)
    bring(gpu, memory, host, on)
    gpu.cudaEventRecord(last, on)
    assert gpu.cudaEventElapsedTime(first, last)[0] == errors.cudaErrorNotReady
    gpu.cudaStreamSynchronize(on)
    assert ok(gpu.cudaEventElapsedTime(first, last)) == 2000.0
    gpu.cudaEventRecord(last, on)
    assert gpu.cudaEventElapsedTime(first, last)[0] == errors.cudaSuccess, "nothing before it"
    gpu.cudaEventDestroy(last)
    assert gpu.cudaEventRecord(last, on)[0] == errors.cudaErrorInvalidResourceHandle


# --- memory ----------------------------------------------------------------------------------


def test_memory_ends_with_cudas_own_error() -> None:
    gpu = Gpu(capacity=100, pinned=10)
    first = ok(gpu.cudaMalloc(60))
    assert gpu.cudaMalloc(41)[0] == errors.cudaErrorMemoryAllocation
    assert ok(gpu.cudaMemGetInfo()) == (40, 100)
    gpu.cudaFree(first)
    ok(gpu.cudaMalloc(100))
    assert gpu.cudaHostAlloc(11, 0)[0] == errors.cudaErrorMemoryAllocation
    assert gpu.left() == {"memory": ["caller"]}


def test_no_two_allocations_share_a_byte() -> None:
    gpu = Gpu()
    blocks = sorted((ok(gpu.cudaMalloc(size)), size) for size in (16000, 8, 1, 5000, 4096, 8))
    for (address, size), (after, _) in pairwise(blocks):
        assert address + size <= after


def test_a_second_free_is_an_error() -> None:
    gpu = Gpu()
    memory = ok(gpu.cudaMalloc(8))
    assert gpu.cudaFree(memory)[0] == errors.cudaSuccess
    assert gpu.cudaFree(memory)[0] == errors.cudaErrorInvalidValue
    address = ok(gpu.cudaHostAlloc(8, 0))
    assert gpu.cudaFreeHost(address)[0] == errors.cudaSuccess
    assert gpu.cudaFreeHost(address)[0] == errors.cudaErrorInvalidValue
    assert len(gpu.broken) == 2


def test_work_on_freed_memory_breaks_cuda_for_good() -> None:
    gpu = Gpu(pace=late)
    memory, host, on = ok(gpu.cudaMalloc(8)), pinned(gpu, [1, 2]), stream(gpu)
    bring(gpu, memory, host, on)
    assert gpu.cudaFree(memory)[0] == errors.cudaSuccess, "nobody can rely on its waiting"
    assert gpu.cudaStreamSynchronize(on)[0] == errors.cudaErrorIllegalAddress
    for result in (gpu.cudaMalloc(8), gpu.cudaMemGetInfo(), gpu.cudaStreamSynchronize(on)):
        assert result[0] == errors.cudaErrorIllegalAddress
    assert gpu.broken == [
        "device memory was freed under work that uses it",
        "8 bytes of device memory were used that are not allocated",
    ]
    with pytest.raises(EngineError, match=r"illegal memory access .*start it again \(cudaErrorI"):
        driver(gpu)


# --- captures --------------------------------------------------------------------------------


def test_a_capture_runs_nothing_and_a_launch_all_of_it() -> None:
    gpu = Gpu()
    memory, host, on = ok(gpu.cudaMalloc(8)), pinned(gpu, [1, 2]), stream(gpu)
    gpu.cudaStreamBeginCapture(on, LOCAL)
    assert gpu.cudaStreamBeginCapture(on, LOCAL)[0] == errors.cudaErrorInvalidValue
    bring(gpu, memory, host, on)
    graph = ok(gpu.cudaStreamEndCapture(on))
    executable = ok(gpu.cudaGraphInstantiate(graph, 0))
    gpu.cudaGraphDestroy(graph)
    gpu.cudaStreamSynchronize(on)
    assert np.isnan(device(gpu, memory, 2)).all()
    for values in ([1, 2], [3, 4]):
        host[:] = values
        gpu.cudaGraphLaunch(executable, on)
        gpu.cudaStreamSynchronize(on)
        assert device(gpu, memory, 2) == values
    gpu.cudaGraphExecDestroy(executable)
    assert gpu.cudaGraphLaunch(executable, on)[0] == errors.cudaErrorInvalidValue


@pytest.mark.parametrize("what", ["malloc", "free", "pin", "unpin", "wait"])
def test_what_a_capture_forbids_spoils_it(what: str) -> None:
    gpu = Gpu()
    memory, host, on = ok(gpu.cudaMalloc(8)), pinned(gpu, [1, 2]), stream(gpu)
    forbidden: dict[str, Callable[[], tuple[Any, ...]]] = {
        "malloc": lambda: gpu.cudaMalloc(8),
        "free": lambda: gpu.cudaFree(memory),
        "pin": lambda: gpu.cudaHostAlloc(8, 0),
        "unpin": lambda: gpu.cudaFreeHost(host.ctypes.data),
        "wait": lambda: gpu.cudaStreamSynchronize(on),
    }
    gpu.cudaStreamBeginCapture(on, LOCAL)
    assert forbidden[what]()[0] == errors.cudaErrorStreamCaptureUnsupported
    assert bring(gpu, memory, host, on) == errors.cudaErrorStreamCaptureInvalidated
    assert gpu.cudaStreamEndCapture(on) == (errors.cudaErrorStreamCaptureInvalidated, None)
    bring(gpu, memory, host, on)
    gpu.cudaStreamSynchronize(on)
    assert (device(gpu, memory, 2), gpu.broken) == ([1, 2], [])


def test_how_far_a_capture_forbids_others_is_its_mode() -> None:
    for mode, here, there in (
        (modes.cudaStreamCaptureModeGlobal, False, False),
        (modes.cudaStreamCaptureModeThreadLocal, False, True),
        (modes.cudaStreamCaptureModeRelaxed, True, True),
    ):
        for allowed, caller in ((here, lambda f: f()), (there, elsewhere)):
            gpu = Gpu()
            gpu.cudaStreamBeginCapture(stream(gpu), mode)
            error = caller(lambda gpu=gpu: gpu.cudaMalloc(8))[0]
            assert (error == errors.cudaSuccess) == allowed, mode


def test_a_capture_ends_in_its_thread() -> None:
    gpu = Gpu()
    on = stream(gpu)
    assert gpu.cudaStreamEndCapture(on)[0] == errors.cudaErrorInvalidValue
    gpu.cudaStreamBeginCapture(on, LOCAL)
    wrong = elsewhere(lambda: gpu.cudaStreamEndCapture(on))
    assert wrong[0] == errors.cudaErrorStreamCaptureWrongThread
    assert gpu.cudaStreamEndCapture(on)[0] == errors.cudaSuccess


def test_the_default_stream_stays_out_of_captures() -> None:
    for blocking in (False, True):
        gpu = Gpu()
        memory, host, on = (
            ok(gpu.cudaMalloc(8)),
            pinned(gpu, [1, 2]),
            stream(gpu, blocking=blocking),
        )
        assert gpu.cudaStreamBeginCapture(LEGACY, LOCAL)[0] == errors.cudaErrorInvalidValue
        gpu.cudaStreamBeginCapture(on, LOCAL)
        error = bring(gpu, memory, host, LEGACY)
        ended = gpu.cudaStreamEndCapture(on)[0]
        if blocking:
            assert error == errors.cudaErrorStreamCaptureImplicit
            assert ended == errors.cudaErrorStreamCaptureInvalidated
        else:
            assert (error, ended) == (errors.cudaSuccess, errors.cudaSuccess)


def test_an_event_in_a_capture_has_no_time() -> None:
    gpu = Gpu()
    on, event = stream(gpu), ok(gpu.cudaEventCreate())
    gpu.cudaStreamBeginCapture(on, LOCAL)
    gpu.cudaEventRecord(event, on)
    gpu.cudaStreamEndCapture(on)
    assert gpu.cudaEventElapsedTime(event, event)[0] == errors.cudaErrorCapturedEvent


# --- faults ----------------------------------------------------------------------------------


def test_any_call_can_be_made_to_fail() -> None:
    faults = {2: "refused", 3: "refused", 4: "interrupt", 6: "sticky"}
    gpu = Gpu(fault=lambda number, name: faults.get(number))
    memory = ok(gpu.cudaMalloc(8))
    assert gpu.cudaMalloc(8)[0] == errors.cudaErrorMemoryAllocation
    assert gpu.cudaFree(memory)[0] == errors.cudaErrorUnknown
    with pytest.raises(KeyboardInterrupt):
        gpu.cudaMemGetInfo()
    assert gpu.cudaMemGetInfo()[0] == errors.cudaSuccess
    for _ in range(2):
        assert gpu.cudaMemGetInfo()[0] == errors.cudaErrorIllegalAddress
    assert gpu.left() == {}, "what CUDA would not free is not the caller's leak"
    assert list(gpu.memory) == [memory]
