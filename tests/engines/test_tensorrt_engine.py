"""The TensorRT engine without a GPU.

A stand-in for CUDA keeps device memory in host bytes and runs a stream only when it is waited
for; a stand-in for TensorRT computes output[b, k] = (k + 1) * sum(input[b]). Plans of the real
TensorRT for RTX are loaded as far as a machine without a GPU allows.
"""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
import types
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperf.engines import contract
from clipperf.engines.tensorrt import cuda as cuda_driver
from clipperf.engines.tensorrt import engine as tensorrt
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.engines.tensorrt import plan as plan_module
from clipperf.engines.tensorrt.engine import TensorRTEngine
from clipperf.errors import ArtifactError, EngineError, MissingDependencyError
from clipperf.nouns.artifact import PlanInfo, ShapeRange, TensorSpec
from clipperf.nouns.cell import Cell, EngineRequest, Phases
from clipperf.nouns.model import ModelSpec
from clipperf.system import nvidia
from clipperf.system.env import gpu_state
from clipperf.system.files import sha256_file

WIDTH, EMBED = 6, 3
MAX_BATCH = 64
WORK_PER_ROW = 100

# --- stand-ins -------------------------------------------------------------------------------


class HostCuda(cuda_driver.Cuda):
    """CUDA in host memory with `capacity` bytes. Events are marked with the work done so far."""

    def __init__(self, *, graphs: bool = True, kind: str = "sm89", capacity: int = 2**30) -> None:
        self.graphs = graphs
        self.kind = kind
        self.gpu = "host"
        self.capacity = capacity
        self.memory: dict[int, np.ndarray] = {}
        self.pinned: list[np.ndarray] = []
        self.others: set[int] = set()
        self.queue: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.recorded: dict[int, list[Callable[[], None]]] = {}
        self.launched = self.copies = self.done = 0
        self._next = 0x1000

    def put(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def at(self, address: int, size: int) -> np.ndarray:
        """The bytes at a device address; reading past an allocation is an error."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + block.size:
                return block[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address} are not allocated")

    def _handle(self) -> int:
        self._next += 0x100000
        return self._next

    def _other(self) -> int:
        self.others.add(handle := self._handle())
        return handle

    def used(self) -> int:
        return sum(block.size for block in self.memory.values())

    def free_bytes(self) -> int:
        return self.capacity - self.used()

    def device_alloc(self, size: int) -> int:
        if size > self.free_bytes():
            raise cuda_driver.out_of_memory(size, self.free_bytes())
        address = self._handle()
        self.memory[address] = np.full(size, 0xEE, np.uint8)
        return address

    def device_free(self, memory: int) -> None:
        del self.memory[memory]

    def host_alloc(self, size: int) -> np.ndarray:
        self.pinned.append(np.full(size, 0xDD, np.uint8))
        return self.pinned[-1]

    def host_free(self, array: np.ndarray) -> None:
        self.pinned = [block for block in self.pinned if block is not array]
        array[:] = 0xDD

    def stream(self) -> int:
        return self._other()

    def stream_handle(self, stream: int) -> int:
        return stream

    def synchronize(self, stream: int) -> None:
        time.sleep(1e-4)  # so that another thread gets between queueing and running
        work, self.queue = self.queue, []
        for job in work:
            job()

    def to_device(self, address: int, source: np.ndarray, stream: int) -> None:
        self.copies += 1

        def copy() -> None:
            self.at(address, source.nbytes)[:] = source
            self.done += 1

        self.put(copy)

    def to_host(self, target: np.ndarray, address: int, stream: int) -> None:
        def copy() -> None:
            target[:] = self.at(address, target.nbytes)
            self.done += 100

        self.put(copy)

    def event(self) -> list[int]:
        return [self._other()]

    def event_free(self, event: list[int]) -> None:
        self.others.remove(event[0])

    def stream_free(self, stream: int) -> None:
        self.others.remove(stream)

    def record(self, event: list[int], stream: int) -> None:
        self.put(lambda: event.append(self.done))

    def elapsed_s(self, start: list[int], end: list[int]) -> float:
        return float(end[-1] - start[-1])

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        assert not self.queue, "capturing while work is pending"
        self.recording = []
        try:
            enqueue()
            graph = self._other()
            self.recorded[graph] = self.recording
            return graph
        finally:
            self.recording = None

    def launch(self, graph: int, stream: int) -> None:
        assert graph in self.others
        self.launched += 1
        self.queue.extend(self.recorded[graph])

    def graph_free(self, graph: int) -> None:
        self.others.remove(graph)


class Context:
    """An execution context that checks what TensorRT leaves undefined."""

    def __init__(self, module: FakeTensorRT) -> None:
        self._module = module
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._work = (0, 0)
        self._changes = 0
        self._profile: int | None = None
        module.contexts += 1

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream in self._module.cuda.others
        self._profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert (name, self._profile) == ("pixel_values", 0)
        self._shape = tuple(shape)
        self._changes += 1
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "image_embeds"
        return (self._shape[0], EMBED)

    def update_device_memory_size_for_shapes(self) -> int:
        return self._module.work_per_row * self._shape[0]

    def set_device_memory(self, address: int, size: int) -> None:
        self._work = (address, size)
        self._changes += 1

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        self._changes += 1
        return True

    def execute_async_v3(self, stream: int) -> bool:
        module, cuda = self._module, self._module.cuda
        if module.fail_runs or (module.fail_capture and cuda.recording is not None):
            module.say(module.fail_runs or module.fail_capture)
            return False
        shape, addresses, changes = self._shape, dict(self._addresses), self._changes
        assert self._work[1] >= WORK_PER_ROW * shape[0], "too little memory for activations"

        def compute() -> None:
            assert changes == self._changes, "the context changed under its work or its graph"
            dtype = np.dtype(module.input_dtype)
            values = cuda.at(addresses["pixel_values"], prod(shape) * dtype.itemsize).view(dtype)
            sums = values.reshape(shape[0], -1).astype(np.float64).sum(axis=1)
            result = (sums[:, None] * np.arange(1, EMBED + 1)).astype(module.output_dtype)
            cuda.at(addresses["image_embeds"], result.nbytes)[:] = result.reshape(-1).view(np.uint8)
            cuda.at(*self._work)[:] = 0xAA
            cuda.done += 10

        cuda.put(compute)
        return True


class RtxContext(Context):
    def is_stream_capturable(self, stream: int) -> bool:
        self._module.asked += 1
        return self._module.capturable


class Engine:
    def __init__(self, module: FakeTensorRT) -> None:
        self._module = module

    def create_execution_context(self, how: Any) -> Context | None:
        module = self._module
        if module.fail_contexts:
            module.say(module.fail_contexts)
            return None
        if module.rtx:
            assert how.strategy == "USER_MANAGED" and how.cache is not None
            assert how.dynamic_shapes_kernel_specialization_strategy == "EAGER"
            return RtxContext(module)
        assert how == "USER_MANAGED"
        return Context(module)

    def create_runtime_config(self) -> Any:
        config = types.SimpleNamespace(strategy=None, cache=None)
        config.set_execution_context_allocation_strategy = lambda s: setattr(config, "strategy", s)
        config.create_runtime_cache = lambda: Kernels(self._module)
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config


class RtxEngine(Engine):
    def get_engine_stat(self) -> int:
        return 5000


class Kernels:
    """A runtime cache; it holds one kernel for every context made so far."""

    def __init__(self, module: FakeTensorRT) -> None:
        self._module = module

    def deserialize(self, data: bytes) -> bool:
        self._module.kernels_read = data
        return True

    def serialize(self) -> bytes:
        return self._module.kernels_now


class FakeTensorRT:
    """The module. Each `fail_*` is what TensorRT logs when that fails; empty where it works."""

    __version__ = "1.2.3"
    ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="USER_MANAGED")
    DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="EAGER")

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        STRONGLY_TYPED = 0

    class ILogger:
        def __init__(self) -> None:
            pass

    def __init__(self, cuda: HostCuda, *, rtx: bool) -> None:
        self.cuda = cuda
        self.rtx = rtx
        self.contexts = 0
        self.capturable = True
        self.asked, self.work_per_row = 0, WORK_PER_ROW
        self.fail_loading = self.fail_contexts = self.fail_runs = self.fail_capture = ""
        self.kernels_read: bytes | None = None
        self.kernels_now = b"kernels"
        self.input_dtype = self.output_dtype = "float32"
        self._logger: Any = None
        if rtx:
            self.IRuntimeCache = Kernels

    def Runtime(self, logger: Any) -> Any:
        self._logger = logger

        def deserialize(data: Any) -> Engine | None:
            assert bytes(data) == b"plan"
            if self.fail_loading:
                self.say(self.fail_loading)
                return None
            return (RtxEngine if self.rtx else Engine)(self)

        return types.SimpleNamespace(deserialize_cuda_engine=deserialize)

    def say(self, message: str) -> None:
        self._logger.log(types.SimpleNamespace(name="ERROR"), message)


# --- plumbing --------------------------------------------------------------------------------

SPEC = ModelSpec("toy::random:0", "toy", "toy", "random:0", 2, 8, EMBED)


def info(path: Path, **changes: Any) -> PlanInfo:
    ranges = ShapeRange("pixel_values", (1, WIDTH), (8, WIDTH), (MAX_BATCH, WIDTH))
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


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "image.plan"
    path.write_bytes(b"plan")
    plan_file.write(path, info(path))
    return path


Open = Callable[..., tuple[TensorRTEngine, HostCuda, FakeTensorRT]]


@pytest.fixture
def opened(plan: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """`opened(flavour, ...)` opens the stand-in plan; every engine is closed afterwards."""
    engines = []

    def make(
        flavour: str = "trt-rtx",
        cuda: HostCuda | None = None,
        *,
        cache: Path | None = None,
        setup: Callable[[FakeTensorRT], object] = bool,
        **changes: Any,
    ) -> tuple[TensorRTEngine, HostCuda, FakeTensorRT]:
        host = cuda or HostCuda()
        module = FakeTensorRT(host, rtx=flavour == "trt-rtx")
        setup(module)
        monkeypatch.setattr(flavours, "load", lambda name: module)
        monkeypatch.setattr(flavours, "installed", lambda name: True)
        monkeypatch.setattr(flavours, "version", lambda name: "1.2.3")
        monkeypatch.setattr(cuda_driver, "open_cuda", lambda: host)
        plan_file.write(plan, info(plan, flavour=flavour, **changes))
        engines.append(tensorrt.open(request(plan, flavour, cache)))
        return engines[-1], host, module

    yield make
    for engine in engines:
        engine.close()


def batch(rows: int, first: float = 0.0) -> np.ndarray:
    """Row b is full of first + b."""
    values = np.arange(rows, dtype=np.float32)[:, None] + np.float32(first)
    return np.repeat(values, WIDTH, axis=1)


def expected(rows: int, first: float = 0.0) -> np.ndarray:
    """WIDTH times the row's value, times 1, 2, 3."""
    return np.outer(WIDTH * (np.arange(rows) + first), [1, 2, 3]).astype(np.float32)


# --- running ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["trt", "trt-rtx"])
def test_outputs_are_the_plans_own_at_every_batch_and_repeat(opened: Open, flavour: str) -> None:
    engine, _, _ = opened(flavour)
    for turn in range(4):
        for rows in (8, 1, 33, 8):
            result = engine.run(batch(rows, turn))
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, expected(rows, turn))


def test_the_result_is_the_callers_own(opened: Open) -> None:
    engine, _, _ = opened()
    first = engine.run(batch(2))
    engine.run(batch(2, 50))
    np.testing.assert_array_equal(first, expected(2))


def test_a_shape_is_captured_after_its_second_run_and_replayed(opened: Open) -> None:
    engine, cuda, module = opened()
    launches = []
    for turn in range(4):
        np.testing.assert_array_equal(engine.run(batch(8, turn)), expected(8, turn))
        launches.append((engine.graphs, cuda.launched))
    assert launches == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert module.contexts == 2, "one for plain runs, one for the graph"


def test_a_graph_survives_runs_of_other_shapes(opened: Open) -> None:
    engine, cuda, _ = opened()
    for turn, rows in enumerate((8, 8, 8, 3, 3, 3, 5, 8)):
        np.testing.assert_array_equal(engine.run(batch(rows, turn)), expected(rows, turn))
    assert (engine.graphs, cuda.launched) == (2, 3)


def test_growing_drops_graphs_and_frees_what_was_there(opened: Open) -> None:
    engine, cuda, _ = opened()
    for _ in range(3):
        engine.run(batch(2))
    small = cuda.used()
    assert small == 2 * (WIDTH * 4 + EMBED * 4 + WORK_PER_ROW)
    np.testing.assert_array_equal(engine.run(batch(10)), expected(10))
    assert (cuda.used(), engine.graphs) == (5 * small, 0)
    for turn in range(3):
        np.testing.assert_array_equal(engine.run(batch(2, turn)), expected(2, turn))
    assert (cuda.used(), engine.graphs) == (5 * small, 1)
    assert len(cuda.pinned) == 2


def test_only_the_latest_shapes_keep_a_graph(opened: Open) -> None:
    engine, cuda, _ = opened()
    engine.run(batch(MAX_BATCH))
    idle = len(cuda.others)
    for rows in range(1, tensorrt.SHAPES + 3):
        for _ in range(2):
            engine.run(batch(rows))
    assert engine.graphs == tensorrt.SHAPES
    assert len(cuda.others) == idle + tensorrt.SHAPES, "graphs of forgotten shapes are destroyed"
    np.testing.assert_array_equal(engine.run(batch(1)), expected(1))
    np.testing.assert_array_equal(engine.run(batch(MAX_BATCH)), expected(MAX_BATCH))


def test_without_graphs_all_runs_are_plain_on_one_context(opened: Open) -> None:
    engine, cuda, module = opened(cuda=HostCuda(graphs=False))
    for turn, rows in enumerate((8, 8, 8, 2, 8)):
        np.testing.assert_array_equal(engine.run(batch(rows, turn)), expected(rows, turn))
    assert (engine.graphs, cuda.launched, module.contexts) == (0, 0, 1)


def test_a_context_that_is_not_capturable_runs_plain(opened: Open) -> None:
    engine, cuda, module = opened(setup=lambda m: setattr(m, "capturable", False))
    for turn in range(4):
        np.testing.assert_array_equal(engine.run(batch(8, turn)), expected(8, turn))
    assert (engine.graphs, cuda.launched, module.contexts) == (0, 0, 2)


def test_a_failed_capture_is_not_a_failed_run(opened: Open) -> None:
    engine, cuda, _ = opened(setup=lambda m: setattr(m, "fail_capture", "not permitted"))
    for turn, rows in enumerate((8, 8, 8, 4, 4, 8)):
        np.testing.assert_array_equal(engine.run(batch(rows, turn)), expected(rows, turn))
    assert (engine.graphs, cuda.launched) == (0, 0)


def test_a_capture_is_tried_once_a_shape(opened: Open) -> None:
    engine, _, module = opened(setup=lambda m: setattr(m, "capturable", False))
    for turn in range(5):
        engine.run(batch(8, turn))
    assert module.asked == 1
    module.capturable = True
    for turn in range(3):
        engine.run(batch(4, turn))
    assert (module.asked, engine.graphs) == (2, 1)


@pytest.mark.parametrize("error", [EngineError("no"), KeyboardInterrupt(), ValueError("odd")])
def test_whatever_ends_a_capture_leaves_it(error: BaseException) -> None:
    ended: list[int] = []

    class Runtime:
        cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        cudaError_t = types.SimpleNamespace(cudaSuccess=0)

        def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int, None]:
            return 0, None

        def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
            ended.append(stream)
            return 0, 1

    def enqueue() -> None:
        raise error

    driver = object.__new__(cuda_driver.Cuda)
    driver._rt = Runtime()
    with pytest.raises(type(error)):
        driver.capture(7, enqueue)
    assert ended == [7]


def test_no_room_for_a_graphs_context_is_no_failed_run(opened: Open) -> None:
    engine, _, module = opened()
    engine.run(batch(8))
    module.fail_contexts = "Cuda Runtime (out of memory)"
    for turn, rows in enumerate((8, 8, 4, 4, 8)):
        np.testing.assert_array_equal(engine.run(batch(rows, turn)), expected(rows, turn))
    assert (engine.graphs, module.contexts) == (0, 1)


def test_a_shape_whose_memory_is_not_told_is_an_error(opened: Open) -> None:
    engine, _, module = opened()
    module.work_per_row = 0
    with pytest.raises(EngineError, match=r"cannot tell the memory that \[8, 6\] takes"):
        engine.run(batch(8))
    module.work_per_row = WORK_PER_ROW
    np.testing.assert_array_equal(engine.run(batch(8)), expected(8))


def test_inputs_are_converted_and_cross_in_pieces(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "CHUNK_BYTES", 40)
    tokens = TensorSpec("pixel_values", "int64", ("batch", WIDTH))
    engine, cuda, _ = opened(inputs=(tokens,), setup=lambda m: setattr(m, "input_dtype", "int64"))
    columns = np.asfortranarray(batch(5).astype(np.int32))
    np.testing.assert_array_equal(engine.run(columns), expected(5))
    assert cuda.copies == 6, "5 * 6 * 8 bytes in pieces of 40"


def test_half_precision_outputs_become_float32(opened: Open) -> None:
    out = TensorSpec("image_embeds", "float16", ("batch", EMBED))
    engine, cuda, _ = opened(outputs=(out,), setup=lambda m: setattr(m, "output_dtype", "float16"))
    result = engine.run(batch(2))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected(2))
    assert cuda.used() == 2 * (WIDTH * 4 + EMBED * 2 + WORK_PER_ROW)


def test_phases_are_copy_in_compute_and_copy_out(opened: Open) -> None:
    """The stand-in's clock: 1 for a piece copied in, 10 for computing, 100 for copying out."""
    engine, _, _ = opened()
    for turn in range(3):
        output, phases = engine.run_phases(batch(4, turn))
        np.testing.assert_array_equal(output, expected(4, turn))
        assert phases == Phases(h2d_s=1.0, compute_s=10.0, d2h_s=100.0)


def test_two_engines_and_two_threads_do_not_mix(opened: Open) -> None:
    cuda = HostCuda()
    engines = [opened(cuda=cuda)[0], opened(cuda=cuda)[0]]
    for engine in engines:
        engine.run(batch(4))
    wrong = []

    def work(first: int) -> None:
        for _ in range(20):
            if not np.array_equal(engines[0].run(batch(4, first)), expected(4, first)):
                wrong.append(first)

    threads = [threading.Thread(target=work, args=(first,)) for first in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    np.testing.assert_array_equal(engines[1].run(batch(4, 9)), expected(4, 9))


# --- memory ----------------------------------------------------------------------------------


def test_allocated_bytes_are_weights_and_buffers(opened: Open) -> None:
    engine, cuda, _ = opened()
    assert engine.allocated_bytes() == 5000, "as the engine's own statistics say"
    engine.run(batch(8))
    assert engine.allocated_bytes() == 5000 + cuda.used()
    plain, cuda, _ = opened("trt")
    plain.run(batch(8))
    assert plain.allocated_bytes() == len(b"plan") + cuda.used()


@pytest.mark.parametrize("flavour", ["trt", "trt-rtx"])
def test_close_frees_everything_and_is_safe_twice(opened: Open, flavour: str) -> None:
    engine, cuda, _ = opened(flavour)
    for _ in range(3):
        engine.run(batch(8))
    engine.close()
    engine.close()
    assert (cuda.memory, cuda.pinned, cuda.others) == ({}, [], set())
    assert engine.allocated_bytes() == 0
    with pytest.raises(EngineError, match="closed"):
        engine.run(batch(8))


def test_a_batch_too_large_for_the_gpu_fails_and_a_smaller_one_still_runs(opened: Open) -> None:
    row = WIDTH * 4 + EMBED * 4 + WORK_PER_ROW
    engine, _, _ = opened(cuda=HostCuda(capacity=10 * row))
    for _ in range(3):
        engine.run(batch(4))
    with pytest.raises(EngineError, match=r"out of GPU memory: .*use a smaller --batch"):
        engine.run(batch(11))
    np.testing.assert_array_equal(engine.run(batch(4)), expected(4))


def test_tensorrts_own_lack_of_memory_has_the_same_words(opened: Open) -> None:
    def full(module: FakeTensorRT) -> None:
        module.fail_contexts = "[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)"

    with pytest.raises(EngineError, match=r"out of GPU memory, 1024 MiB free; use a smaller"):
        opened(setup=full)


# --- refusals --------------------------------------------------------------------------------


def test_a_batch_outside_the_profile_names_range_and_fix(opened: Open) -> None:
    engine, _, _ = opened("trt")
    with pytest.raises(EngineError) as caught:
        engine.run(batch(128))
    assert str(caught.value) == (
        "this engine takes batches 1 to 64, not 128; build another with "
        "clipperf export MODEL --runtime trt --batch 1:8:128"
    )
    np.testing.assert_array_equal(engine.run(batch(3)), expected(3))


@pytest.mark.parametrize("shape", [(8, WIDTH + 1), (8,), (8, WIDTH, 1)])
def test_another_size_or_rank_is_refused(opened: Open, shape: tuple[int, ...]) -> None:
    engine, _, _ = opened()
    with pytest.raises(EngineError, match=r"shape \[1, 6\] to \[64, 6\], not \[8"):
        engine.run(np.zeros(shape, np.float32))


def test_a_failed_run_carries_tensorrts_reason(opened: Open) -> None:
    engine, _, module = opened()
    for reason in ("out of memory", "myelin gave up"):
        module.fail_runs = reason
        with pytest.raises(EngineError) as caught:
            engine.run(batch(1))
    assert str(caught.value) == "TensorRT for RTX 1.2.3 failed to run: myelin gave up"
    module.fail_runs = ""
    np.testing.assert_array_equal(engine.run(batch(1)), expected(1))


def test_a_plan_that_does_not_load_carries_tensorrts_reason(opened: Open) -> None:
    with pytest.raises(EngineError, match=r"cannot load .*image\.plan: bad magic"):
        opened(setup=lambda m: setattr(m, "fail_loading", "bad magic"))


def test_the_wrong_gpu_is_named_with_the_fix(opened: Open) -> None:
    with pytest.raises(EngineError, match=r"built for sm86, sm89, the GPU here is sm120.*--target"):
        opened(cuda=HostCuda(kind="sm120"))
    with pytest.raises(EngineError, match=r"runs on sm75, .*, not on sm90: export .* trt on this"):
        opened(cuda=HostCuda(kind="sm90"))


def test_another_version_is_refused(opened: Open) -> None:
    with pytest.raises(EngineError, match=r"built with .* 9\.9, 1\.2\.3 is installed"):
        opened(version="9.9")


def test_a_cut_plan_is_refused_before_tensorrt_sees_it(opened: Open) -> None:
    with pytest.raises(ArtifactError, match="cut off or altered"):
        opened(plan_bytes=5)


def test_a_plan_is_needed(plan: Path) -> None:
    with pytest.raises(EngineError, match="no artifact was given"):
        tensorrt.open(dataclasses.replace(request(plan), path=None))


# --- compiled kernels ------------------------------------------------------------------------


def test_kernels_are_kept_between_processes(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    engine, _, module = opened(cache=folder)
    assert module.kernels_read is None
    engine.run(batch(1))
    engine.close()
    file = folder / "abc-sm89.kernels"
    assert [path.name for path in folder.iterdir()] == [file.name]
    assert file.read_bytes() == b"kernels"
    written = file.stat().st_mtime_ns

    engine, _, module = opened(cache=folder)
    assert module.kernels_read == b"kernels"
    engine.close()
    assert file.stat().st_mtime_ns == written, "nothing new, nothing written"

    engine, _, module = opened(cache=folder)
    module.kernels_now = b"more kernels"
    engine.close()
    assert file.read_bytes() == b"more kernels"


def test_trouble_with_the_kernel_file_never_fails_a_run(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.write_text("a file where the folder should be")
    engine, _, _ = opened(cache=folder)
    np.testing.assert_array_equal(engine.run(batch(1)), expected(1))
    engine.close()
    assert folder.read_text() == "a file where the folder should be"


def test_without_folder_or_key_nothing_is_kept(plan: Path, tmp_path: Path) -> None:
    asked = request(plan, cache=tmp_path)
    assert plan_module.kernel_file(asked, "sm89") == tmp_path / "abc-sm89.kernels"
    assert plan_module.kernel_file(dataclasses.replace(asked, key=""), "sm89") is None
    assert plan_module.kernel_file(dataclasses.replace(asked, cache_folder=None), "sm89") is None


# --- what is missing -------------------------------------------------------------------------


def test_each_missing_piece_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = {"trt": True, "binding": "cuda-bindings", "gpu": [], "kind": None}
    monkeypatch.setattr(flavours, "installed", lambda flavour: state["trt"])
    monkeypatch.setattr(flavours, "version", lambda flavour: "1.2.3")
    monkeypatch.setattr(cuda_driver, "package", lambda: state["binding"])
    monkeypatch.setattr(nvidia, "gpu_problems", lambda: state["gpu"])
    monkeypatch.setattr(flavours, "gpu_kind", lambda: state["kind"])
    for flavour in ("trt", "trt-rtx"):
        state.update({"trt": True, "binding": "cuda-bindings", "gpu": []})
        found = tensorrt.availability(flavour, "cuda")
        assert (found.usable, found.fix) == (True, "")
        assert found.detail == f"{flavours.TITLES[flavour]} 1.2.3, cuda-bindings"
        state["kind"] = "sm90"
        found = tensorrt.availability(flavour, "cuda")
        assert found.usable == (flavour == "trt")
        if flavour == "trt-rtx":
            assert found.detail == (
                "TensorRT for RTX runs on sm75, sm86, sm89, sm120, sm121, not on sm90"
            )
            assert found.fix == "take --runtime trt or ort-trt"
        state["kind"] = None
        state["gpu"] = [("no GPU", "buy one")]
        assert tensorrt.availability(flavour, "cuda").detail == "no GPU"
        state["binding"] = None
        assert tensorrt.availability(flavour, "cuda").fix == "pip install cuda-bindings; buy one"
        state["trt"] = False
        found = tensorrt.availability(flavour, "cuda")
        assert "is not installed; neither cuda-bindings nor pycuda" in found.detail
        assert found.fix.startswith(f"pip install 'clipperf[{flavour}]'")
        assert ("--runtime trt-rtx" in found.fix) == (flavour == "trt")


def test_both_runtimes_are_found_by_name() -> None:
    for flavour in ("trt", "trt-rtx"):
        runtime = contract.get(flavour)
        assert (runtime.artifact, runtime.devices) == (flavour, ("cuda",))


# --- the real TensorRT for RTX ---------------------------------------------------------------


@pytest.fixture(scope="session")
def real_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of y = relu(x) for two kinds of GPU, built here."""
    if not flavours.installed("trt-rtx"):
        pytest.skip(f"TensorRT for RTX is not installed: {flavours.INSTALL['trt-rtx']}")
    trt = flavours.load("trt-rtx")
    builder = trt.Builder(flavours.logger("trt-rtx", flavours.Log()))
    network = builder.create_network(0)
    pixels = network.add_input("pixel_values", trt.float32, (-1, WIDTH))
    result = network.add_activation(pixels, trt.ActivationType.RELU).get_output(0)
    result.name = "image_embeds"
    network.mark_output(result)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 2
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.set_compute_capability(trt.ComputeCapability.SM89, 1)
    profile = builder.create_optimization_profile()
    profile.set_shape("pixel_values", (1, WIDTH), (8, WIDTH), (MAX_BATCH, WIDTH))
    config.add_optimization_profile(profile)
    path = tmp_path_factory.mktemp("plan") / "image.plan"
    path.write_bytes(bytes(builder.build_serialized_network(network, config)))
    plan_file.write(path, info(path, version=trt.__version__))
    return path


@pytest.mark.skipif(gpu_state()[0] is not None, reason="there is a GPU")
def test_opening_a_real_plan_without_a_gpu_says_so(real_plan: Path) -> None:
    with pytest.raises(EngineError, match=r"no NVIDIA driver|no GPU") as caught:
        tensorrt.open(request(real_plan))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(gpu_state()[0] is not None, reason="there is a GPU")
def test_real_tensorrt_without_a_driver_gives_its_reason(real_plan: Path) -> None:
    """Past the layer of CUDA: TensorRT reads the mapped file, returns None, and logs why."""
    with pytest.raises(EngineError, match=r"TensorRT for RTX [\d.]+ cannot load .*(35|driver)"):
        plan_module.Plan(request(real_plan), real_plan, HostCuda(kind="sm86"))


def test_real_tensorrt_has_everything_that_the_engine_calls() -> None:
    if not flavours.installed("trt-rtx"):
        pytest.skip(f"TensorRT for RTX is not installed: {flavours.INSTALL['trt-rtx']}")
    trt: Any = flavours.load("trt-rtx")
    stand_in = [name for name in vars(Context) if not name.startswith("_")]
    for name in [*stand_in, "is_stream_capturable"]:
        assert hasattr(trt.IExecutionContext, name), name
    for name in ("create_execution_context", "create_runtime_config", "get_engine_stat"):
        assert hasattr(trt.ICudaEngine, name), name
    for name in (
        "set_execution_context_allocation_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
        "create_runtime_cache",
        "set_runtime_cache",
    ):
        assert hasattr(trt.IRuntimeConfig, name), name
    assert {"serialize", "deserialize"} <= set(dir(trt.IRuntimeCache))
    assert "EAGER" in trt.DynamicShapesKernelSpecializationStrategy.__members__
    assert "USER_MANAGED" in trt.ExecutionContextAllocationStrategy.__members__


def test_without_the_package_opening_names_it(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "open_cuda", HostCuda)
    if flavours.installed("trt"):
        pytest.skip("TensorRT is installed")
    plan_file.write(plan, info(plan, flavour="trt"))
    with pytest.raises(MissingDependencyError, match=r"clipperf\[trt\]"):
        tensorrt.open(request(plan, "trt"))
