"""TensorRT and TensorRT for RTX on the GPU, without torch: plans that `clipperf export` built.

One engine runs both. Activations live in memory that the engine owns (USER_MANAGED contexts), so
it grows with the shapes that are really run, and every captured CUDA graph has an execution
context of its own on that shared memory, as TensorRT asks for.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipperf.engines.contract import BATCH_BUCKETS, TOKEN_BUCKETS, Availability, verdict
from clipperf.engines.profiles import whole
from clipperf.engines.tensorrt import cuda as cuda_driver
from clipperf.engines.tensorrt import flavours
from clipperf.engines.tensorrt.buffers import Buffer, grow_all
from clipperf.engines.tensorrt.plan import Plan
from clipperf.errors import EngineError
from clipperf.nouns.cell import EngineRequest, Phases
from clipperf.system import nvidia

if TYPE_CHECKING:
    import tensorrt as trt

CHUNK_BYTES = 4 * 2**20
"""Inputs cross in pieces of this size, so that filling pinned memory overlaps the transfer."""

SHAPES = 16
"""So many input shapes are remembered, and with them their graphs."""


@dataclass
class _Shape:
    """What is kept of one input shape: a context bound to it, and its graph once captured."""

    context: trt.IExecutionContext
    output: tuple[int, ...]
    graph: Any = None
    tried: bool = False


class TensorRTEngine:
    """One plan with a single input and a single output.

    Calls from several threads take turns on the one that calls the GPU, with those of every other
    engine (`engines.gpu_thread`); opening, running and closing all happen there.

    A shape is run in the profile that is tuned nearest to it. Its first run is plain, in a context
    that all shapes share and that changes its profile with them; the second gets an execution
    context of its own and is captured after it ran, later ones replay the graph. Graphs end when a
    buffer moves.
    """

    def __init__(self, plan: Plan, cuda: cuda_driver.Cuda) -> None:
        self._plan = plan
        self._cuda = cuda
        self._closed = self._busy = False
        self._capturing = cuda.graphs
        self._shapes: OrderedDict[tuple[int, ...], _Shape] = OrderedDict()
        self._bound: tuple[int, ...] | None = None
        self._profile: int | None = None  # the shared context's; None: nobody knows
        self._stream: Any = None
        self._context: Any = None
        self._events: list[Any] = []
        self._in = Buffer(cuda, pinned=True)
        self._out = Buffer(cuda, pinned=True)
        self._work = Buffer(cuda, pinned=False)
        try:
            self._stream = cuda.stream()
            self._handle = cuda.stream_handle(self._stream)
            self._context, self._profile = plan.new_context(self._handle), 0
            for _ in range(4):
                self._events.append(cuda.event())
        except BaseException:
            self.close()
            raise
        self.provider = plan.provider
        # Of a text tower; images have no short inputs.
        taken = whole(plan.profiles)
        self.min_tokens, self.max_batch = taken.min[1], taken.max[0]
        self.token_buckets = TOKEN_BUCKETS if self._capturing else ()
        usual = (size for size in BATCH_BUCKETS if taken.min[0] <= size <= self.max_batch)
        self.batch_buckets = tuple(usual) if self._capturing else ()

    @property
    def graphs(self) -> int:
        """How many input shapes run as a captured CUDA graph now."""
        return sum(shape.graph is not None for shape in self._shapes.values())

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch; returns float32 [batch, embed_dim] on the host.

        Raises:
            EngineError: the shape is outside the plan's profiles, the GPU is out of memory, or
                the run failed.
        """
        return self._cuda.there(partial(self._run, array, timed=False))

    def run_phases(self, array: np.ndarray) -> tuple[np.ndarray, Phases]:
        """As `run`, with the GPU's seconds; copying in includes filling the pinned memory."""
        return self._cuda.there(partial(self._run_timed, array))

    def allocated_bytes(self) -> int:
        """Device bytes of the weights, the activations and the input and output buffers."""
        if self._closed:
            return 0
        return self._plan.weights_bytes + sum(b.size for b in (self._in, self._out, self._work))

    def close(self) -> None:
        """Free everything on the GPU; safe to call twice."""
        self._cuda.there(self._close)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # After a failed run CUDA may refuse some; none of them keeps the others from it.
        with contextlib.suppress(EngineError), contextlib.ExitStack() as last_first:
            last_first.callback(self._plan.close)
            last_first.callback(setattr, self, "_context", None)
            if self._stream is not None:
                last_first.callback(self._cuda.stream_free, self._stream)
            for event in self._events:
                last_first.callback(self._cuda.event_free, event)
            for buffer in (self._in, self._out, self._work):
                last_first.callback(buffer.free)
            last_first.callback(self._forget_shapes)
            if self._stream is not None:
                last_first.callback(self._cuda.synchronize, self._stream)

    def _run_timed(self, array: np.ndarray) -> tuple[np.ndarray, Phases]:
        output = self._run(array, timed=True)
        seconds = [self._cuda.elapsed_s(*pair) for pair in pairwise(self._events)]
        return output, Phases(*seconds)

    def _run(self, array: np.ndarray, *, timed: bool) -> np.ndarray:
        if self._closed:
            raise EngineError("this engine is closed")
        if array.shape not in self._shapes:
            self._plan.profile_of(array.shape)
        if self._busy:  # a run that failed may have left work on its way to what is moved next
            self._cuda.synchronize(self._stream)
        self._busy = True
        output = self._ran(array, timed=timed)
        self._busy = False
        return output

    def _ran(self, array: np.ndarray, *, timed: bool) -> np.ndarray:
        kept = self._prepared(array.shape)
        cuda, stream = self._cuda, self._stream
        marks = self._events if timed else []
        self._mark(marks, 0)
        self._copy_in(array)
        self._mark(marks, 1)
        if kept.graph is not None:
            cuda.launch(kept.graph, stream)
        else:
            self._enqueue(kept.context)
        self._mark(marks, 2)
        dtype = np.dtype(self._plan.output.dtype)
        host = self._out.host[: prod(kept.output) * dtype.itemsize]
        cuda.to_host(host, self._out.address, stream)
        self._mark(marks, 3)
        cuda.synchronize(stream)
        if self._capturing and not kept.tried and kept.context is not self._context:
            self._capture(kept)
        return host.view(dtype).reshape(kept.output).astype(np.float32)

    def _mark(self, events: list[Any], number: int) -> None:
        if events:
            self._cuda.record(events[number], self._stream)

    def _copy_in(self, array: np.ndarray) -> None:
        source = np.ascontiguousarray(array, self._plan.input.dtype).reshape(-1).view(np.uint8)
        for start in range(0, source.size, CHUNK_BYTES):
            pinned = self._in.host[start : min(start + CHUNK_BYTES, source.size)]
            pinned[:] = source[start : start + pinned.size]
            self._cuda.to_device(self._in.address + start, pinned, self._stream)

    def _enqueue(self, context: trt.IExecutionContext) -> None:
        if not context.execute_async_v3(self._handle):
            raise self._plan.failure("failed to run")

    def _prepared(self, shape: tuple[int, ...]) -> _Shape:
        """The record of a shape; without a graph, its context is bound to shape and buffers."""
        kept = self._shapes.get(shape)
        if kept is None:
            kept = self._bind(self._context, shape)
        elif kept.context is self._context:
            own = self._bound_alone(shape) if self._capturing else None
            if own is not None:
                kept = own
            elif self._bound != shape:
                kept = self._bind(self._context, shape)
        self._shapes[shape] = kept
        self._shapes.move_to_end(shape)
        while len(self._shapes) > SHAPES:
            self._drop_graph(self._shapes.popitem(last=False)[1])
        return kept

    def _bound_alone(self, shape: tuple[int, ...]) -> _Shape | None:
        """A shape with a context of its own, to be captured; None where there is no room for one.

        Then nothing is captured any more: plain runs on the first context need no more memory.
        """
        try:
            profile = self._plan.profile_of(shape)
            return self._bind(self._plan.new_context(self._handle, profile), shape)
        except EngineError:
            self._capturing = False
            return None

    def _bind(self, context: trt.IExecutionContext, shape: tuple[int, ...]) -> _Shape:
        """Tell a context its shape and where its memory is, after making enough of it."""
        plan = self._plan
        if context is self._context:
            self._bound = None
            profile = plan.profile_of(shape)
            if self._profile != profile:
                self._profile = None
                plan.change_profile(context, profile, self._handle)
                self._profile = profile
        if not context.set_input_shape(plan.input.name, shape):
            raise plan.failure(f"refuses the input shape {list(shape)}")
        dims = context.get_tensor_shape(plan.output.name)
        output = tuple(dims[axis] for axis in range(len(dims)))
        work = int(context.update_device_memory_size_for_shapes())
        if work <= 0:
            raise plan.failure(f"cannot tell the memory that {list(shape)} takes")
        needed = (
            (self._in, prod(shape) * np.dtype(plan.input.dtype).itemsize),
            (self._out, prod(output) * np.dtype(plan.output.dtype).itemsize),
            (self._work, work),
        )
        if any(size > buffer.size for buffer, size in needed):
            self._forget_shapes()
            grow_all(needed)
        context.set_device_memory(self._work.address, self._work.size)
        for name, buffer in ((plan.input.name, self._in), (plan.output.name, self._out)):
            if not context.set_tensor_address(name, buffer.address):
                raise plan.failure(f"refuses the memory of {name}")
        if context is self._context:
            self._bound = shape
        return _Shape(context, output)

    def _capture(self, kept: _Shape) -> None:
        """Keep a run that just went through as a graph; without one, runs stay plain.

        It is tried once a shape, and no more once CUDA refused.
        """
        kept.tried = True
        if not self._plan.capturable(kept.context, self._handle):
            return
        try:
            kept.graph = self._cuda.capture(self._stream, partial(self._enqueue, kept.context))
        except EngineError:
            self._capturing = False

    def _forget_shapes(self) -> None:
        """Drop what is tied to the buffers' addresses."""
        shapes, self._bound = list(self._shapes.values()), None
        self._shapes.clear()
        with contextlib.ExitStack() as each:
            for kept in shapes:
                each.callback(self._drop_graph, kept)

    def _drop_graph(self, kept: _Shape) -> None:
        if kept.graph is not None:
            self._cuda.graph_free(kept.graph)
            kept.graph = None


def availability(flavour: str, device: str) -> Availability:
    """Whether a flavour's package, a binding of CUDA and a GPU with a driver are there."""
    title = flavours.TITLES[flavour]
    problems: list[nvidia.Problem] = []
    if not flavours.installed(flavour):
        other = " on a machine with a GPU, or take --runtime trt-rtx" if flavour == "trt" else ""
        problems.append((f"{title} is not installed", flavours.INSTALL[flavour] + other))
    binding = cuda_driver.package()
    if binding is None:
        problems.append(
            ("neither cuda-bindings nor pycuda is installed", "pip install cuda-bindings")
        )
    without = nvidia.gpu_problems()
    kind = None if without else flavours.gpu_kind()
    if kind is not None and (refused := flavours.unsupported(flavour, kind)):
        problems.append((refused, "take --runtime trt or ort-trt"))
    versions = f"{title} {flavours.version(flavour)}, {binding}"
    return verdict([*problems, *without], versions)


def open(request: EngineRequest) -> TensorRTEngine:
    """Load a plan, on the thread that calls the GPU.

    Raises:
        ArtifactError: the plan or its sidecar is missing or damaged.
        EngineError: no driver or GPU, a GPU or version that the plan was not built for, or too
            little memory.
        MissingDependencyError: TensorRT, or any binding of CUDA, is not installed.
    """
    if request.file is None:
        raise EngineError(f"{request.cell.label}: no artifact was given")
    file, cuda = Path(request.file), cuda_driver.open_cuda()
    return cuda.there(lambda: TensorRTEngine(Plan(request, file, cuda), cuda))
