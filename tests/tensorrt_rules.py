"""A TensorRT without a GPU that keeps TensorRT's rules, on a GPU of `cuda_rules`.

Its engines compute output[b, k] = (k + 1) * sum(input[b]), when the stream gets there, from what
lies in device memory then. What TensorRT leaves undefined is noted in `gpu.broken`; what it refuses
is None or False and a message to its logger. Every method is a call that can be made to fail, as
CUDA's are.

[api] is the TensorRT API reference, class IExecutionContext; [guide] the TensorRT developer guide,
"CUDA Graphs" and "Dynamic Shapes". A profile belonged to one context at a time in TensorRT 8 (its
NvInferRuntime.h). From 10 on contexts share it: PreviewFeature PROFILE_SHARING_0806 is on and to be
turned off no more, and TensorRT for RTX 1.7 shares without having the feature.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from cuda_rules import Gpu, IllegalAccess, Refused, Work

from clipperf.nouns.artifact import PlanInfo, ShapeRange, TensorSpec
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.system.files import sha256_file

ALIGNMENT = 256
"""Bytes, of every address that TensorRT is given ([api] setTensorAddress, setDeviceMemory)."""


def method(failed: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method that gives `failed` and logs why when CUDA refuses something in it."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(self: Any, *args: Any) -> Any:
            gpu = self.module.gpu
            with gpu.lock:
                try:
                    gpu.enter(function.__name__, args)
                    return function(self, *args)
                except Refused as exc:
                    words = gpu.cudaGetErrorString(exc.error)[1].decode()
                    self.module.say(f"[{function.__name__}] Error Code 1: Cuda Runtime ({words})")
                    return failed

        return called

    return decorate


@dataclass
class Bound:
    """What a context is told, apart from it: work that is queued must not keep a context.

    `switching` counts what is still copied for its profile.
    """

    profile: int = 0
    switching: int = 0
    shape: tuple[int, ...] = ()
    addresses: dict[str, int] = field(default_factory=dict)
    work: tuple[int, int] = (0, 0)
    changes: int = 0
    ready: bool = False
    alive: bool = True


class Context:
    """An execution context whose activations the caller provides."""

    def __init__(self, module: TensorRT) -> None:
        self.module = module
        self._bound = Bound()
        self._memory = module.gpu.allocate(module.context_bytes, "context")
        module.contexts += 1
        # [api] setOptimizationProfileAsync: a new context is in profile 0.
        self._bound.profile = 0

    def __del__(self) -> None:
        if not hasattr(self, "_memory"):
            return
        gpu = self.module.gpu
        with gpu.lock:
            self._bound.alive = False
            if gpu.in_flight(self._bound):
                gpu.broken.append("a context was destroyed under its work")
            if gpu.sticky is None:
                gpu.release(self._memory)

    def _change(self) -> Bound:
        """The state, to be changed: [api] enqueueV3 forbids that while work is to be done."""
        if self.module.gpu.in_flight(self._bound):
            self.module.gpu.broken.append("a context was changed under its work")
        self._bound.changes += 1
        return self._bound

    @method(False)
    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        """All shapes and addresses have to be set again ([api]), and it waits for nothing.

        It may copy in `stream`, and runs in others have to be kept behind that ([api]). The words
        of the refusals are those of TensorRT's libraries.
        """
        module, gpu, bound = self.module, self.module.gpu, self._bound
        place = gpu.stream_of(stream)
        if not 0 <= profile < len(module.info.profile):
            module.say("condition: (0) <= (profileIndex) && (profileIndex) < (nbProfiles)")
            return False
        if gpu.in_flight(bound):
            module.say(
                "Please ensure there are no enqueued operations pending in this context prior to "
                "switching profiles"
            )
            return False
        if place.capture is not None:
            gpu.broken.append("a profile was changed in a capture")
        self._change()
        bound.profile, bound.shape, bound.ready = profile, (), False
        bound.addresses = {}
        bound.switching += 1

        def copied(now: float) -> None:
            bound.switching -= 1

        gpu.put(int(stream), Work("profile", copied))
        return True

    @method(False)
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        bound = self._change()
        bound.shape, bound.ready = (), False
        ranges = self.module.info.profile[bound.profile]
        sizes = zip(ranges.min, shape, ranges.max, strict=True)
        if name != ranges.name or not all(low <= size <= high for low, size, high in sizes):
            self.module.say(f"{name} {shape} is outside of profile {bound.profile}")
            return False
        bound.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == self.module.info.outputs[0].name
        return (self._bound.shape[0], self.module.width)

    @method(0)
    def update_device_memory_size_for_shapes(self) -> int:
        return self.module.work_for(self._bound.shape, self._bound.profile)

    def set_device_memory(self, address: int, size: int) -> None:
        self._change().work = (address, size)

    @method(False)
    def set_tensor_address(self, name: str, address: int) -> bool:
        bound = self._change()
        if address % ALIGNMENT:
            self.module.say(f"{name}: the address is not aligned")
            return False
        bound.addresses[name] = address
        return True

    @method(False)
    def execute_async_v3(self, stream: int) -> bool:
        module, gpu, bound = self.module, self.module.gpu, self._bound
        place = gpu.stream_of(stream)
        if said := module.fail_runs or (place.capture is not None and module.fail_capture):
            module.say(said)
            return False
        address, size = bound.work
        if not bound.shape or len(bound.addresses) < 2 or address % ALIGNMENT:
            module.say("shape, addresses or memory are not set")
            return False
        if size < module.work_for(bound.shape, bound.profile):
            module.say("too little memory for the activations")
            return False
        # [guide]: after a change of shapes one run has to update the context's own state, which a
        # capture forbids.
        if place.capture is not None and not bound.ready:
            place.capture.invalid = True
            module.say("Cuda Runtime (operation not permitted when stream is capturing)")
            return False
        bound.ready = True
        module.ran.append((bound.profile, bound.shape))
        places = (*bound.addresses.values(), address)
        blocks = {b.address for a in places for b in gpu.memory.values() if holds(b, a)}
        gpu.put(stream, Work("kernel", self._computation(), frozenset(blocks), bound))
        return True

    def _computation(self) -> Callable[[float], None]:
        module, gpu, bound = self.module, self.module.gpu, self._bound
        shape, work, changes = bound.shape, bound.work, bound.changes
        given, left = module.info.inputs[0], module.info.outputs[0]
        source, target = bound.addresses[given.name], bound.addresses[left.name]
        in_type, out_type = np.dtype(given.dtype), np.dtype(left.dtype)

        def compute(now: float) -> None:
            if not bound.alive:
                raise IllegalAccess("work ran whose context was destroyed")
            if bound.switching:
                gpu.broken.append("a run overtook the copies of its profile")
            if changes != bound.changes:  # [guide]: a graph belongs to the context as it was
                gpu.broken.append("a context was changed under its work or its graph")
            values = gpu.at(source, prod(shape) * in_type.itemsize).view(in_type)
            result = module.result(values.reshape(shape)).astype(out_type)
            gpu.at(*work)[:] = 0xAA
            gpu.at(target, result.nbytes)[:] = result.reshape(-1).view(np.uint8)

        return compute


def holds(block: Any, address: int) -> bool:
    return bool(block.address <= address < block.address + block.data.size)


class RtxContext(Context):
    def is_stream_capturable(self, stream: int) -> bool:
        self.module.asked += 1
        return self.module.capturable


class Engine:
    def __init__(self, module: TensorRT) -> None:
        self.module = module
        self._memory = module.gpu.allocate(module.weights_bytes, "weights")

    def __del__(self) -> None:
        gpu = self.module.gpu
        with gpu.lock:
            if gpu.sticky is None and hasattr(self, "_memory"):
                gpu.release(self._memory)

    @method(None)
    def create_execution_context(self, how: Any) -> Context | None:
        module = self.module
        if module.fail_contexts:
            module.say(module.fail_contexts)
            return None
        if module.rtx:
            assert how.strategy == "USER_MANAGED" and how.cache is not None
            assert how.dynamic_shapes_kernel_specialization_strategy == "EAGER"
            return RtxContext(module)
        assert how == "USER_MANAGED"
        return Context(module)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.module)


class RtxEngine(Engine):
    def get_engine_stat(self) -> int:
        return self.module.weights_bytes


class RuntimeConfig:
    def __init__(self, module: TensorRT) -> None:
        self._module = module
        self.strategy: Any = None
        self.cache: Kernels | None = None
        self.dynamic_shapes_kernel_specialization_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Kernels:
        return Kernels(self._module)

    def set_runtime_cache(self, cache: Kernels) -> None:
        self.cache = cache


class Kernels:
    """A runtime cache."""

    def __init__(self, module: TensorRT) -> None:
        self._module = module

    def deserialize(self, data: bytes) -> bool:
        self._module.kernels_read = data
        return True

    def serialize(self) -> bytes:
        return self._module.kernels_now


class Runtime:
    def __init__(self, module: TensorRT, logger: Any) -> None:
        self.module = module
        module.logger = logger

    @method(None)
    def deserialize_cuda_engine(self, data: Any) -> Engine | None:
        module = self.module
        assert bytes(data) == b"plan"
        if module.fail_loading:
            module.say(module.fail_loading)
            return None
        return (RtxEngine if module.rtx else Engine)(module)


class TensorRT:
    """The module. Each `fail_*` is what TensorRT logs when that fails; empty where it works.

    `info` is the plan's, which a real plan holds itself. `work` are the bytes of activations for
    each row of a batch, as many times as `busier` says of its profile; `weights_bytes` and
    `context_bytes` are what engines and contexts take themselves. `ran` is each run's profile and
    shape, as often as it was put into a stream.
    """

    __version__ = "1.2.3"
    ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="USER_MANAGED")
    DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="EAGER")

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        STRONGLY_TYPED = 0

    class ILogger:
        def __init__(self) -> None:
            pass

    def __init__(self, gpu: Gpu, info: PlanInfo, *, rtx: bool, work: int = 100) -> None:
        self.gpu, self.info, self.rtx = gpu, info, rtx
        self.width = int(info.outputs[0].shape[-1])
        self.work_per_row, self.weights_bytes, self.context_bytes = work, 5000, 64
        self.contexts = self.asked = 0
        self.busier: Callable[[int], int] = lambda profile: 1
        self.ran: list[tuple[int, tuple[int, ...]]] = []
        self.capturable = True
        self.fail_loading = self.fail_contexts = self.fail_runs = self.fail_capture = ""
        self.kernels_read: bytes | None = None
        self.kernels_now = b"kernels"
        self.logger: Any = None
        if rtx:
            self.IRuntimeCache = Kernels

    def Runtime(self, logger: Any) -> Runtime:
        return Runtime(self, logger)

    def result(self, values: np.ndarray) -> np.ndarray:
        """What its engines compute of a batch."""
        sums = values.reshape(len(values), -1).astype(np.float64).sum(axis=1)
        return np.outer(sums, np.arange(1, self.width + 1))

    def work_for(self, shape: tuple[int, ...], profile: int) -> int:
        """Bytes of activations for a shape in a profile."""
        return self.work_per_row * shape[0] * self.busier(profile)

    def say(self, message: str) -> None:
        self.logger.log(types.SimpleNamespace(name="ERROR"), message)


# --- its plans -------------------------------------------------------------------------------

WIDTH, EMBED = 6, 3
SPEC = ModelSpec("toy::random:0", "toy", "toy", "random:0", 2, 8, EMBED)


def info(path: Path, **changes: Any) -> PlanInfo:
    """The sidecar of a plan that takes images [1 to 64, WIDTH]."""
    ranges = ShapeRange("pixel_values", (1, WIDTH), (8, WIDTH), (64, WIDTH))
    base = PlanInfo(
        schema_version=1, flavour="trt-rtx", version="1.2.3", model_id=SPEC.id, side="image",
        precision="fp16", inputs=(TensorSpec("pixel_values", "float32", ("batch", WIDTH)),),
        outputs=(TensorSpec("image_embeds", "float32", ("batch", EMBED)),), profile=(ranges,),
        targets=("sm86", "sm89"), gpu=None, options={}, onnx_sha256="0",
        plan_sha256=sha256_file(path), plan_bytes=path.stat().st_size, build_s=1.0,
        peak_rss_bytes=None, created_utc="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def request(path: Path, flavour: str = "trt-rtx", cache: Path | None = None) -> EngineRequest:
    cell = Cell(SPEC.id, "image", flavour, "fp16", "cuda", 8, 1)
    return EngineRequest(
        cell, SPEC, str(path), key="abc", cache_folder=None if cache is None else str(cache)
    )
