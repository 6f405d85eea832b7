"""A CUDA without a GPU that keeps CUDA's rules: `Gpu` is what `cuda.bindings.runtime` is.

Time is virtual. Every call takes `step` seconds of it, work takes what `pace` says of its kind, and
is done when its stream gets there, all at once at its end: a copy reads its source then, not when
it was asked for. What the rules leave undefined gives poison (0xFF, which is NaN in every float
type) and is noted in `broken`; what they forbid gives CUDA's own error code, noted in `refused`.
Any call can be made to fail (`fault`).

Each rule says where it stands. [sync] is "API synchronization behavior" of the CUDA Runtime API,
[guide] the CUDA C++ Programming Guide, a function's name its entry in the CUDA Runtime API (13),
an error's name its entry under `cudaError_t` there.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import functools
import heapq
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipperf.engines.tensorrt import cuda as cuda_driver

POISON = 0xFF
LEGACY = 0
"""The default stream."""


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureImplicit = 906
    cudaErrorCapturedEvent = 907
    cudaErrorStreamCaptureWrongThread = 908
    cudaErrorUnknown = 999


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


WORDS = {
    cudaError_t.cudaErrorInvalidValue: "invalid argument",
    cudaError_t.cudaErrorMemoryAllocation: "out of memory",
    cudaError_t.cudaErrorInvalidResourceHandle: "invalid resource handle",
    cudaError_t.cudaErrorNotReady: "device not ready",
    cudaError_t.cudaErrorIllegalAddress: "an illegal memory access was encountered",
    cudaError_t.cudaErrorStreamCaptureUnsupported: "operation not permitted when stream is "
    "capturing",
    cudaError_t.cudaErrorStreamCaptureInvalidated: "operation failed due to a previous error "
    "during capture",
    cudaError_t.cudaErrorStreamCaptureImplicit: "operation would make the legacy stream depend on "
    "a capturing blocking stream",
    cudaError_t.cudaErrorCapturedEvent: "operation not permitted on an event last recorded in a "
    "capturing stream",
    cudaError_t.cudaErrorStreamCaptureWrongThread: "attempt to terminate a thread-local capture "
    "sequence from another thread",
    cudaError_t.cudaErrorUnknown: "unknown error",
}


class Refused(Exception):
    """A call that CUDA answers with an error."""

    def __init__(self, error: cudaError_t) -> None:
        super().__init__(error.name)
        self.error = error


class IllegalAccess(Exception):
    """Work on the device touched memory that is not there."""


def late(kind: str) -> float:
    """Nothing is done before somebody waits for it: work takes a thousand times what calls do."""
    return 1e-3


def early(kind: str) -> float:
    """Work is done as soon as it may be."""
    return 0.0


@dataclass
class Block:
    """Memory of the device or pinned memory of the host, `owner`'s."""

    address: int
    data: np.ndarray
    owner: str


@dataclass
class Work:
    """Something for a stream, of a `kind`: h2d, kernel, d2h, event, profile. `run` gets the time.

    `uses` are the addresses of the blocks that it reads or writes, `of` is whose work it is.
    """

    kind: str
    run: Callable[[float], None]
    uses: frozenset[int] = frozenset()
    of: object = None


@dataclass(order=True)
class Pending:
    """Work in a stream, which is done at `end`."""

    end: float
    number: int
    work: Work = field(compare=False)
    stream: int = field(compare=False)


@dataclass
class Capture:
    """A capture sequence on a stream."""

    thread: int
    mode: cudaStreamCaptureMode
    works: list[Work] = field(default_factory=list)
    invalid: bool = False


@dataclass
class Stream:
    blocking: bool
    end: float = 0.0
    capture: Capture | None = None


@dataclass
class Event:
    """`done` is None before the first record, else when it happened; infinite while it has not."""

    done: float | None = None
    captured: bool = False
    records: int = 0


@dataclass
class Executable:
    works: list[Work]
    end: float = 0.0


def call(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """A function of CUDA's runtime: (error, value...) as cuda-bindings has it, (error, None)."""
    name = function.__name__

    @functools.wraps(function)
    def called(self: Gpu, *args: Any) -> tuple[Any, ...]:
        with self.lock:
            try:
                self.enter(name, args)
                value = function(self, *args)
            except Refused as exc:
                self.refused.append((name, exc.error))
                return exc.error, None
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        return (cudaError_t.cudaSuccess, *values)

    return called


class Gpu:
    """One GPU and its driver. `cuda.bindings.runtime` is a module; this has its names.

    `capacity` and `pinned` bound the device's and the host's pinned memory, in bytes. `fault` is
    asked before each call with its number, from 1, and its name: "refused" fails it, "sticky"
    breaks the process's CUDA for good, "interrupt" is the user's Ctrl-C just before it.
    """

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaHostAllocDefault = 0
    cudaStreamNonBlocking = 1

    def __init__(
        self,
        *,
        kind: str = "sm89",
        capacity: int = 2**30,
        pinned: int = 2**30,
        pace: Callable[[str], float] = late,
        step: float = 1e-6,
        fault: Callable[[int, str], str | None] = lambda number, name: None,
    ) -> None:
        self.kind, self.capacity, self.pinned_capacity = kind, capacity, pinned
        self.pace, self.step, self.fault = pace, step, fault
        self.lock = threading.RLock()
        self.now = 0.0
        self.calls: list[str] = []
        self.broken: list[str] = []
        self.refused: list[tuple[str, cudaError_t]] = []
        self.lost: set[int] = set()
        self.sticky: cudaError_t | None = None
        self.memory: dict[int, Block] = {}
        self.pinned: dict[int, Block] = {}
        self.streams: dict[int, Stream] = {LEGACY: Stream(blocking=True)}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, Executable] = {}
        self.pending: list[Pending] = []
        self.launched = self.copies = 0
        self._freed: list[Block] = []
        self._next = 0x7F00_0000_0000
        self._number = 0

    # --- what tests ask ----------------------------------------------------------------------

    def used(self, owner: str = "caller") -> int:
        """Device bytes that somebody holds."""
        return sum(block.data.size for block in self.memory.values() if block.owner == owner)

    def free_bytes(self) -> int:
        return self.capacity - sum(block.data.size for block in self.memory.values())

    def left(self) -> dict[str, list[str]]:
        """What nobody freed; without that whose freeing was made to fail (`lost`)."""
        held: dict[str, dict[int, Any]] = {
            "memory": self.memory, "pinned": self.pinned, "events": self.events,
            "graphs": self.graphs, "executables": self.executables,
            "streams": {handle: one for handle, one in self.streams.items() if handle != LEGACY},
        }  # fmt: skip
        left = {
            name: [getattr(one, "owner", hex(handle)) for handle, one in found.items()
                   if handle not in self.lost]
            for name, found in held.items()
        }  # fmt: skip
        return {name: found for name, found in left.items() if found}

    def check_freed(self) -> None:
        """Note writes into pinned memory after it was freed."""
        if any((block.data != POISON).any() for block in self._freed):
            self.broken.append("freed pinned memory was written")

    # --- time --------------------------------------------------------------------------------

    def enter(self, name: str, args: tuple[Any, ...] = ()) -> None:
        """Begin a call: time passes, what fell due is done, and the call may be made to fail.

        Raises:
            Refused: it fails, or CUDA is broken. KeyboardInterrupt: by an injected fault.
        """
        self.calls.append(name)
        self._advance(self.now + self.step)
        fault = self.fault(len(self.calls), name)
        if fault in ("refused", "interrupt") and name.endswith(("Free", "FreeHost", "Destroy")):
            self.lost.add(int(args[0]))  # the caller cannot know that it still is there
        if fault == "interrupt":
            raise KeyboardInterrupt
        if fault == "sticky":
            self._break()
        # cudaErrorIllegalAddress: "any further CUDA work will return the same error".
        if self.sticky is not None:
            raise Refused(self.sticky)
        if fault == "refused":
            if name == "cudaStreamEndCapture":  # it ends the capture whatever it answers
                self._capture_of(args[0]).invalid = True
                return
            scarce = name in ("cudaMalloc", "cudaHostAlloc")
            errors = cudaError_t
            raise Refused(errors.cudaErrorMemoryAllocation if scarce else errors.cudaErrorUnknown)

    def _break(self) -> None:
        self.sticky = cudaError_t.cudaErrorIllegalAddress
        self.pending.clear()

    def _advance(self, until: float) -> None:
        """Let time pass, and do what is due by then, in the order of its end."""
        self.now = max(self.now, until)
        while self.pending and self.pending[0].end <= self.now:
            due = heapq.heappop(self.pending)
            try:
                due.work.run(due.end)
            except IllegalAccess as exc:
                self.broken.append(str(exc))
                self._break()

    def put(self, stream: int, work: Work, after: float = 0.0) -> float:
        """Put work into a stream, or into the graph that is captured from it; when it is done."""
        place = self.stream_of(stream)
        if place.capture is not None:
            self._still_valid(place.capture)
            place.capture.works.append(work)
            return 0.0
        start = max(self.now, place.end, after)
        # cudaStreamNonBlocking: such a stream and stream 0 never wait for each other; others do
        # ([guide] "Legacy default stream"), and stream 0 must not depend on a capture
        # (cudaErrorStreamCaptureImplicit; [guide] "Prohibited and Unhandled Operations").
        if stream == LEGACY:
            others = [one for one in self.streams.values() if one.blocking]
            for one in others:
                if one.capture is not None:
                    one.capture.invalid = True
                    raise Refused(cudaError_t.cudaErrorStreamCaptureImplicit)
            start = max(start, *(one.end for one in others))
        elif place.blocking:
            start = max(start, self.streams[LEGACY].end)
        place.end = start + self.pace(work.kind)
        self._number += 1
        heapq.heappush(self.pending, Pending(place.end, self._number, work, stream))
        return place.end

    def stream_of(self, stream: Any) -> Stream:
        try:
            return self.streams[int(stream)]
        except KeyError:
            self.broken.append("a stream that is not there was used")
            raise Refused(cudaError_t.cudaErrorInvalidResourceHandle) from None

    def in_flight(self, of: object) -> bool:
        """Whether work of this object is still to be done."""
        return any(one.work.of is of for one in self.pending)

    # --- memory ------------------------------------------------------------------------------

    def block_of(self, address: int, size: int) -> Block:
        """The allocation that holds these bytes of the device.

        Raises:
            IllegalAccess: there is none, or none any more.
        """
        for block in self.memory.values():
            if block.address <= address and address + size <= block.address + block.data.size:
                return block
        raise IllegalAccess(f"{size} bytes of device memory were used that are not allocated")

    def at(self, address: int, size: int) -> np.ndarray:
        """Bytes of the device, for work that runs there; raises IllegalAccess."""
        block = self.block_of(address, size)
        return block.data[address - block.address : address - block.address + size]

    def allocate(self, size: int, owner: str) -> int:
        """cudaMalloc: "The memory is not cleared", and aligned for any kind of variable."""
        self._unsafe()
        if size > self.free_bytes():
            raise Refused(cudaError_t.cudaErrorMemoryAllocation)
        # None has the address of another, nor any byte of it.
        address = self._next
        self._next += -(-max(size, 1) // 0x1000) * 0x1000 + 0x1000
        self.memory[address] = Block(address, np.full(size, POISON, np.uint8), owner)
        return address

    def release(self, address: int) -> None:
        """cudaFree, which *may* synchronize (so nobody can rely on it), and refuses a second."""
        self._unsafe()
        self._no_use_of(address, "device memory was freed under work that uses it")
        if self.memory.pop(address, None) is None:
            self.broken.append("device memory was freed that is not allocated")
            raise Refused(cudaError_t.cudaErrorInvalidValue)

    def _no_use_of(self, address: int, words: str) -> None:
        if any(address in one.work.uses for one in self.pending):
            self.broken.append(words)

    def _unsafe(self) -> None:
        """Calls that a capture forbids (cudaThreadExchangeStreamCaptureMode), as cudaMalloc.

        They fail, and spoil the capture ([guide] "Prohibited and Unhandled Operations",
        "Invalidation").
        """
        modes = cudaStreamCaptureMode
        for stream in self.streams.values():
            capture = stream.capture
            if capture is None or capture.mode == modes.cudaStreamCaptureModeRelaxed:
                continue
            ours = capture.thread == threading.get_ident()
            if ours or capture.mode == modes.cudaStreamCaptureModeGlobal:
                capture.invalid = True
                raise Refused(cudaError_t.cudaErrorStreamCaptureUnsupported)

    def _host(self, address: int, size: int) -> tuple[np.ndarray, Block | None]:
        """Bytes of the host, and the pinned block that they are in, None for pageable memory."""
        for block in self.pinned.values():
            if block.address <= address and address + size <= block.address + block.data.size:
                return block.data[address - block.address :][:size], block
        if any(b.address <= address < b.address + b.data.size for b in self._freed):
            self.broken.append("freed pinned memory was given to a copy")
            raise Refused(cudaError_t.cudaErrorInvalidValue)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)), None

    # --- the runtime's functions: device and memory ------------------------------------------

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return cudaError_t.cudaSuccess, WORDS[error].encode()

    @call
    def cudaGetDeviceCount(self) -> int:
        return 1

    @call
    def cudaSetDevice(self, device: int) -> None:
        if device != 0:
            raise Refused(cudaError_t.cudaErrorInvalidValue)

    @call
    def cudaGetDeviceProperties(self, device: int) -> Any:
        major, minor = self.kind.removeprefix("sm")[:-1], self.kind[-1]
        return types.SimpleNamespace(name=b"host\0", major=int(major), minor=int(minor))

    @call
    def cudaMemGetInfo(self) -> tuple[int, int]:
        return self.free_bytes(), self.capacity

    @call
    def cudaMalloc(self, size: int) -> int:
        return self.allocate(size, "caller")

    @call
    def cudaFree(self, address: Any) -> None:
        self.release(int(address))

    @call
    def cudaHostAlloc(self, size: int, flags: int) -> int:
        self._unsafe()
        if size > self.pinned_capacity - sum(block.data.size for block in self.pinned.values()):
            raise Refused(cudaError_t.cudaErrorMemoryAllocation)
        data = np.full(size, POISON, np.uint8)
        self.pinned[data.ctypes.data] = Block(data.ctypes.data, data, "caller")
        return data.ctypes.data

    @call
    def cudaFreeHost(self, address: int) -> None:
        self._unsafe()
        self._no_use_of(address, "pinned memory was freed under a copy that uses it")
        block = self.pinned.pop(address, None)
        if block is None:
            self.broken.append("pinned memory was freed that is not allocated")
            raise Refused(cudaError_t.cudaErrorInvalidValue)
        block.data[:] = POISON
        self._freed.append(block)  # its address stays its own, so that a later use is seen

    @call
    def cudaMemcpyAsync(
        self, to: Any, source: Any, size: int, kind: cudaMemcpyKind, stream: Any
    ) -> None:
        inward = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        device, address = (int(to), int(source)) if inward else (int(source), int(to))
        host, pinned = self._host(address, size)
        try:
            block = self.block_of(device, size)
        except IllegalAccess as exc:
            self.broken.append(str(exc))
            raise Refused(cudaError_t.cudaErrorInvalidValue) from None
        self.copies += inward
        uses = frozenset({block.address} | ({pinned.address} if pinned else set()))
        place = self.stream_of(stream)
        # [sync] "Memcpy", "Asynchronous": only between device and pinned memory is the copy fully
        # asynchronous; pageable memory is staged, for which the call may wait for the stream.
        waits = pinned is None and place.capture is None
        if inward:
            if waits:
                self._advance(place.end)
            taken = host.copy() if place.capture is None else None

            def bring(now: float) -> None:
                same = taken is None or np.array_equal(taken, host)
                if pinned is not None and not same:
                    self.broken.append("pinned memory was overwritten before its copy had run")
                self.at(device, size)[:] = taken if waits else host

            self.put(int(stream), Work("h2d", bring, uses))
            return

        def take(now: float) -> None:
            host[:] = self.at(device, size)

        if pinned is not None and place.capture is None:
            host[:] = POISON  # what is read before the copy is done means nothing
        end = self.put(int(stream), Work("d2h", take, uses))
        if waits:
            self._advance(end)

    # --- the runtime's functions: streams and events -----------------------------------------

    def _handle(self) -> int:
        handle = self._next
        self._next += 0x1000
        return handle

    @call
    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        handle = self._handle()
        self.streams[handle] = Stream(blocking=flags != self.cudaStreamNonBlocking)
        return handle

    @call
    def cudaStreamDestroy(self, stream: Any) -> None:
        """It returns at once; work that is in it is done all the same (cudaStreamDestroy)."""
        self.stream_of(stream)
        del self.streams[int(stream)]

    @call
    def cudaStreamSynchronize(self, stream: Any) -> None:
        place = self.stream_of(stream)
        # [guide] "Prohibited and Unhandled Operations": a capturing stream has no status.
        if place.capture is not None:
            place.capture.invalid = True
            raise Refused(cudaError_t.cudaErrorStreamCaptureUnsupported)
        self._advance(place.end)
        if self.sticky is not None:
            raise Refused(self.sticky)

    @call
    def cudaEventCreate(self) -> int:
        handle = self._handle()
        self.events[handle] = Event()
        return handle

    def _event(self, event: Any) -> Event:
        try:
            return self.events[int(event)]
        except KeyError:
            self.broken.append("an event that is not there was used")
            raise Refused(cudaError_t.cudaErrorInvalidResourceHandle) from None

    @call
    def cudaEventDestroy(self, event: Any) -> None:
        """It does not wait, even if the event has not happened (cudaEventDestroy)."""
        self._event(event)
        del self.events[int(event)]

    @call
    def cudaEventRecord(self, event: Any, stream: Any) -> None:
        """What was recorded before is overwritten (cudaEventRecord)."""
        found, place = self._event(event), self.stream_of(stream)
        found.records += 1
        found.captured, found.done = place.capture is not None, float("inf")
        mine = found.records

        def happen(now: float) -> None:
            if found.records == mine:
                found.done = now

        self.put(int(stream), Work("event", happen))

    @call
    def cudaEventElapsedTime(self, start: Any, end: Any) -> float:
        first, last = self._event(start), self._event(end)
        if first.captured or last.captured:
            raise Refused(cudaError_t.cudaErrorCapturedEvent)
        if first.done is None or last.done is None:
            raise Refused(cudaError_t.cudaErrorInvalidResourceHandle)
        if float("inf") in (first.done, last.done):
            raise Refused(cudaError_t.cudaErrorNotReady)
        return (last.done - first.done) * 1e3

    # --- the runtime's functions: graphs -----------------------------------------------------

    def _capture_of(self, stream: Any) -> Capture:
        capture = self.stream_of(stream).capture
        if capture is None:
            raise Refused(cudaError_t.cudaErrorInvalidValue)
        return capture

    def _still_valid(self, capture: Capture) -> None:
        """[guide] "Invalidation": the streams of a spoilt capture refuse all until it ends."""
        if capture.invalid:
            raise Refused(cudaError_t.cudaErrorStreamCaptureInvalidated)

    @call
    def cudaStreamBeginCapture(self, stream: Any, mode: cudaStreamCaptureMode) -> None:
        place = self.stream_of(stream)
        if place.capture is not None or int(stream) == LEGACY:
            raise Refused(cudaError_t.cudaErrorInvalidValue)
        place.capture = Capture(threading.get_ident(), mode)

    @call
    def cudaStreamEndCapture(self, stream: Any) -> int:
        """By the thread that began it, unless relaxed; a spoilt capture ends without a graph."""
        capture = self._capture_of(stream)
        relaxed = capture.mode == cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        if capture.thread != threading.get_ident() and not relaxed:
            raise Refused(cudaError_t.cudaErrorStreamCaptureWrongThread)
        self.stream_of(stream).capture = None
        self._still_valid(capture)
        handle = self._handle()
        self.graphs[handle] = capture.works
        return handle

    def _known(self, table: dict[int, Any], handle: Any) -> Any:
        if handle is None or int(handle) not in table:
            self.broken.append("a graph that is not there was used")
            raise Refused(cudaError_t.cudaErrorInvalidValue)
        return table[int(handle)]

    @call
    def cudaGraphInstantiate(self, graph: Any, flags: int) -> int:
        handle = self._handle()
        self.executables[handle] = Executable(list(self._known(self.graphs, graph)))
        return handle

    @call
    def cudaGraphDestroy(self, graph: Any) -> None:
        self._known(self.graphs, graph)
        del self.graphs[int(graph)]

    @call
    def cudaGraphLaunch(self, executable: Any, stream: Any) -> None:
        """Behind the stream's work and behind the graph's last launch (cudaGraphLaunch)."""
        found = self._known(self.executables, executable)
        self.launched += 1
        for work in found.works:
            found.end = self.put(int(stream), work, found.end)

    @call
    def cudaGraphExecDestroy(self, executable: Any) -> None:
        """One that is running is freed when it is done (cuGraphExecDestroy, CUDA Driver API)."""
        self._known(self.executables, executable)
        del self.executables[int(executable)]


@contextlib.contextmanager
def in_place_of_cuda(gpu: Gpu) -> Iterator[None]:
    """`from cuda.bindings import runtime` gives `gpu` here."""
    bindings = types.SimpleNamespace(runtime=gpu)
    modules: dict[str, Any] = {"cuda": types.SimpleNamespace(bindings=bindings)}
    modules |= {"cuda.bindings": bindings, "cuda.bindings.runtime": gpu}
    real = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in real.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def driver(gpu: Gpu, *, graphs: bool = True) -> cuda_driver.Cuda:
    """The project's own layer, on this GPU."""
    with in_place_of_cuda(gpu):
        cuda = cuda_driver.Cuda()
    cuda.graphs = graphs
    return cuda
