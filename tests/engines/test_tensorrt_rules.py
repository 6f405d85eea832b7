"""The TensorRT engine under CUDA's and TensorRT's rules (`cuda_rules`, `tensorrt_rules`).

Random shapes, paces, threads and memory, and a failure at every call: a result is right or an error
in words, nothing is left on the GPU, and what comes after a failure works. That these tests would
find a wrong engine is shown by wrong engines (`MUTANTS`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from cuda_rules import LEGACY, Gpu, cudaError_t, driver, early, late
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorrt_rules import EMBED, TensorRT, info, request

from clipperf.engines import gpu_thread
from clipperf.engines.profiles import chosen, holds, profiles_of
from clipperf.engines.tensorrt import cuda as cuda_driver
from clipperf.engines.tensorrt import engine as tensorrt
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.engines.tensorrt.engine import TensorRTEngine
from clipperf.engines.tensorrt.plan import Plan
from clipperf.errors import EngineError
from clipperf.nouns.artifact import PlanInfo, ShapeRange, TensorSpec

IDS = TensorSpec("ids", "int64", ("batch", "tokens"))
PROFILES = profiles_of(IDS, (1, 8, 64), (8, 77, 77))
"""Six lengths, each tuned for three batches."""

OLD = (ShapeRange("ids", (1, 8), (8, 77), (64, 77)),)
"""The one profile of engines that an earlier clipperf built."""
ANY_SHAPE = st.tuples(st.integers(1, 64), st.sampled_from((8, 9, 16, 24, 32, 48, 77)))
FEW_SHAPES = st.sampled_from(((1, 8), (2, 8), (2, 77), (9, 16), (64, 8)))
FAULTS = ("refused", "sticky", "interrupt")
WORK = 50
"""Bytes of activations for each row of a batch."""

MODULES: dict[str, TensorRT] = {}
"""The TensorRT that is installed, under the one flavour there is."""


@pytest.fixture(scope="module", autouse=True)
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plan of a text tower, and the flavour "trt-rtx" as `MODULES` has it."""
    path = tmp_path_factory.mktemp("plan") / "text.plan"
    path.write_bytes(b"plan")
    known = info(
        path,
        inputs=(IDS,),
        outputs=(TensorSpec("text_embeds", "float32", ("batch", EMBED)),),
        profile=PROFILES,
    )
    plan_file.write(path, known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flavours, "load", MODULES.__getitem__)
        patch.setattr(flavours, "installed", lambda name: True)
        patch.setattr(flavours, "version", lambda name: "1.2.3")
        patch.setattr(tensorrt, "CHUNK_BYTES", 256)  # several pieces for all but the smallest
        Case.path, Case.plan = path, known
        yield


def paced(seed: int) -> Callable[[str], float]:
    """Work takes as long as it happens to."""
    draw = random.Random(seed)
    return lambda kind: draw.choice((0.0, 2e-6, 1e-5, 1e-3))


def slow_copies(kind: str) -> float:
    return 1.0 if kind == "h2d" else 1e-3


def slow_profiles(kind: str) -> float:
    return 1.0 if kind == "profile" else 1e-3


PACES = (late, early, slow_copies, slow_profiles, *map(paced, range(3)))


def tokens(shape: tuple[int, int], seed: int) -> np.ndarray:
    """An int64 batch, other than that of any other seed."""
    return np.random.default_rng(seed).integers(1, 1000, shape)


def expected(array: np.ndarray) -> np.ndarray:
    """What `tensorrt_rules` computes."""
    return np.outer(array.sum(axis=1), np.arange(1, EMBED + 1)).astype(np.float32)


def nothing(case: Case) -> None:
    """No change: the engine as it is."""


def ready(module: TensorRT) -> None:
    """No change: the TensorRT as it is."""


@dataclass
class Case:
    """An engine on a GPU of its own, and what was found wrong with it; `change` may spoil it."""

    path: ClassVar[Path]
    plan: ClassVar[PlanInfo]

    gpu: Gpu
    change: Callable[[Case], None] = nothing
    graphs: bool = True
    setup: Callable[[TensorRT], None] = ready
    engine: TensorRTEngine | None = None
    module: TensorRT | None = None
    cuda: cuda_driver.Cuda | None = None
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    results: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def attempt(self, call: Callable[[], Any]) -> Any:
        """What a call gives, None with its words noted where it fails; as it is allowed to."""
        try:
            return call()
        except EngineError as exc:
            words = str(exc)
        except KeyboardInterrupt:
            words = "interrupted"
        if "\n" in words or len(words) < 10:
            self.wrong.append(f"words: {words!r}")
        self.errors.append(words)
        return None

    def open(self) -> TensorRTEngine:
        module = MODULES["trt-rtx"] = TensorRT(self.gpu, self.plan, rtx=True, work=WORK)
        module.context_bytes = 16
        self.setup(module)
        plan_file.write(self.path, module.info)
        self.module = module
        self.cuda = driver(self.gpu, graphs=self.graphs)
        cuda = self.cuda
        return cuda.there(lambda: TensorRTEngine(Plan(request(self.path), self.path, cuda), cuda))

    def run(self, shape: tuple[int, int], *, timed: bool = False) -> bool:
        """Run a batch of its own, opening the engine if need be; whether there is a result."""
        if self.engine is None:
            self.engine = self.attempt(self.open)
            if self.engine is None:
                return False
            self.change(self)
        engine, array = self.engine, tokens(shape, len(self.results))
        call: Callable[[], Any] = lambda: engine.run(array)  # noqa: E731
        if timed:
            call = lambda: engine.run_phases(array)[0]  # noqa: E731
        output = self.attempt(call)
        if output is not None:
            self.results.append((output, expected(array)))
            self._compare(self.results[-1:])
        return output is not None

    def _compare(self, results: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.wrong += (
            f"got {got[0]}, not {right[0]}" for got, right in results
            if not np.array_equal(got, right)
        )  # fmt: skip

    def close(self) -> list[str]:
        """Everything that is wrong, once the engine is closed."""
        if self.engine is not None:
            self.attempt(self.engine.close)
        if self.module is not None:
            self.wrong += (
                f"{shape} in profile {profile}" for profile, shape in self.module.ran
                if profile != chosen(self.module.info.profile, shape)
            )  # fmt: skip
        self.engine = self.cuda = self.module = None
        MODULES.clear()
        self._compare(self.results)  # still, and nobody else's
        self.gpu.check_freed()
        if self.gpu.sticky is None and self.gpu.left():
            gc.collect()  # of errors, which hold what was there when they came up
            self.wrong += (f"left: {kind} {whose}" for kind, whose in self.gpu.left().items())
        return self.wrong + self.gpu.broken


# --- healthy hardware ------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.one_of(FEW_SHAPES, ANY_SHAPE), st.booleans()), max_size=20),
    pace=st.one_of(st.sampled_from(PACES), st.integers(0, 1000).map(paced)),
    graphs=st.booleans(),
)
def test_any_shapes_in_any_order_at_any_pace_are_right(
    shapes: list[tuple[tuple[int, int], bool]], pace: Callable[[str], float], graphs: bool
) -> None:
    case = Case(Gpu(pace=pace), graphs=graphs)
    for shape, timed in shapes:
        case.run(shape, timed=timed)
    assert (case.close(), case.errors, case.gpu.refused) == ([], [], [])


def test_more_shapes_than_are_kept_are_right() -> None:
    case = Case(Gpu())
    for turn in range(3 * (tensorrt.SHAPES + 2)):
        case.run((64 - turn % (tensorrt.SHAPES + 2), 8 + turn % 3))
        case.run((5, 8))
    assert (case.close(), case.errors) == ([], [])


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(ANY_SHAPE, min_size=2, max_size=12),
    capacity=st.integers(0, 60_000),
    pinned=st.integers(0, 40_000),
)
def test_what_fits_alone_runs_whatever_came_before(
    shapes: list[tuple[int, int]], capacity: int, pinned: int
) -> None:
    """Device memory for the weights, one context and the shape's own buffers is enough."""
    case = Case(Gpu(capacity=5000 + 16 + capacity, pinned=pinned))
    for rows, length in shapes:
        given_, left = rows * length * 8, rows * EMBED * 4
        fits = given_ + left + rows * WORK <= capacity and given_ + left <= pinned
        assert case.run((rows, length)) == fits, (rows, length, case.errors[-1:])
        assert fits or case.errors[-1].startswith(("out of GPU memory", "out of memory to pin"))
        assert fits or case.errors[-1].endswith("use a smaller --batch")
    assert case.close() == []


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shapes=st.lists(FEW_SHAPES, min_size=2, max_size=4),
    faults=st.sets(st.integers(20, 400), max_size=4),
)
def test_threads_get_their_own_results(
    seed: int, shapes: list[tuple[int, int]], faults: set[int]
) -> None:
    """Two engines on one GPU, three threads, calls that fail; one closes what others still use."""
    gpu = Gpu(pace=paced(seed), fault=lambda n, name: "refused" if n in faults else None)
    cases = [Case(gpu), Case(gpu)]
    for case in cases:
        case.engine = case.attempt(case.open)

    def work(number: int) -> None:
        for turn in range(4):
            case = cases[(number + turn) % 2]
            if case.engine is None:
                continue
            array = tokens(shapes[(number + turn) % len(shapes)], 10 * number + turn)
            output = case.attempt(functools.partial(case.engine.run, array))
            if output is not None and not np.array_equal(output, expected(array)):
                case.wrong.append("another thread's result")
        if number == 0 and cases[0].engine is not None:
            cases[0].attempt(cases[0].engine.close)

    run_together(work, 3)
    told = [words for case in cases for words in case.errors]
    late_calls = [words for words in told if "is closed" in words]
    assert len(told) - len(late_calls) <= len(faults)
    for case in cases:
        if case.engine is not None:
            case.attempt(case.engine.close)
    assert [wrong for case in cases for wrong in case.close()] == []


def run_together(work: Callable[[int], None], count: int) -> None:
    """Run `work(number)` in threads that change as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)


# --- beside ONNX Runtime ---------------------------------------------------------------------


def beside_a_capture(gpu: Gpu, call: Callable[[], Any]) -> tuple[Any, cudaError_t]:
    """What a call gives while ONNX Runtime's CUDA provider captures a graph, and how that ends.

    The provider captures in the global mode, from the thread that all of its engines are called
    on. The capture ends once the call is over or waits for that thread.
    """
    begun, over = threading.Event(), threading.Event()
    ended: list[cudaError_t] = []

    def capture() -> None:
        stream = gpu.cudaStreamCreateWithFlags(gpu.cudaStreamNonBlocking)[1]
        gpu.cudaStreamBeginCapture(stream, gpu.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal)
        waiting = gpu_thread._threads[os.getpid()]._work_queue
        begun.set()
        while not over.is_set() and not waiting.qsize():
            over.wait(0.001)
        error, *graph = gpu.cudaStreamEndCapture(stream)
        if not error:
            gpu.cudaGraphDestroy(*graph)
        gpu.cudaStreamDestroy(stream)
        ended.append(error)

    provider = threading.Thread(target=gpu_thread.on_gpu_thread, args=(capture,))
    provider.start()
    assert begun.wait(60)
    try:
        found = call()
    finally:
        over.set()
        provider.join()
    return found, ended[0]


def test_an_engine_opens_runs_and_closes_beside_a_capture_of_onnx_runtimes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a tuning gives one tower to `ort-cuda` and the other to `trt`."""
    case, gpu = Case(Gpu()), Gpu()
    case.gpu = gpu
    module = MODULES["trt-rtx"] = TensorRT(gpu, Case.plan, rtx=True, work=WORK)
    plan_file.write(Case.path, module.info)
    cuda = driver(gpu)
    monkeypatch.setattr(cuda_driver, "open_cuda", lambda: cuda)
    engine, ended = beside_a_capture(gpu, lambda: tensorrt.open(request(Case.path)))
    assert ended == cudaError_t.cudaSuccess
    for turn in range(4):  # plain, with a context of its own and captured, replayed, timed
        array = tokens((2, 8), turn)
        run = engine.run if turn < 3 else engine.run_phases
        found, ended = beside_a_capture(gpu, functools.partial(run, array))
        output = found if turn < 3 else found[0]
        assert np.array_equal(output, expected(array))
        assert ended == cudaError_t.cudaSuccess
    assert engine.graphs == 1
    assert beside_a_capture(gpu, engine.close) == (None, cudaError_t.cudaSuccess)
    del engine, module, run
    assert case.close() == []
    assert gpu.refused == []


# --- profiles --------------------------------------------------------------------------------


def one_profile(module: TensorRT) -> None:
    module.info = dataclasses.replace(module.info, profile=OLD)


def busy(module: TensorRT) -> None:
    module.busier = lambda profile: 1 + profile * 7 % 5


@settings(max_examples=20, deadline=None)
@given(
    shapes=st.lists(st.one_of(FEW_SHAPES, ANY_SHAPE), min_size=1, max_size=8),
    setup=st.sampled_from((one_profile, busy)),
    pace=st.sampled_from(PACES),
)
def test_any_profiles_give_right_results(
    shapes: list[tuple[int, int]], setup: Callable[[TensorRT], None], pace: Callable[[str], float]
) -> None:
    """One for all shapes, as an earlier clipperf built it, or some that need more memory."""
    case = Case(Gpu(pace=pace), setup=setup)
    for shape in shapes:
        assert case.run(shape), case.errors
    assert case.close() == []


def test_each_length_has_its_own_profile_and_graph() -> None:
    case = Case(Gpu())
    lengths = (8, 9, 16, 17, 33, 49, 77)
    for _ in range(3):
        for length in lengths:
            assert case.run((8, length))
    assert case.engine is not None and case.engine.graphs == len(lengths)
    assert case.module is not None
    # Of three profiles a length the one that is tuned for 8 is the second.
    places = {shape[1]: profile for profile, shape in case.module.ran}
    assert places == {8: 1, 9: 4, 16: 4, 17: 7, 33: 13, 49: 16, 77: 16}
    assert case.close() == []


def test_a_shape_outside_of_every_profile_costs_nothing() -> None:
    case = Case(Gpu())
    assert case.run((2, 8))
    before = len(case.gpu.calls)
    for shape in ((2, 7), (2, 78), (65, 8)):
        assert not case.run(shape)
    assert len(case.gpu.calls) == before
    assert case.errors == [
        "this engine takes inputs of shape [1, 8] to [64, 77], not [2, 7]",
        "this engine takes inputs of shape [1, 8] to [64, 77], not [2, 78]",
        "this engine takes batches 1 to 64, not 65; build another with clipperf export MODEL "
        "--runtime trt-rtx --batch 1:8:65",
    ]
    assert case.run((2, 8)) and case.close() == []


def test_tensorrts_rules_on_profiles() -> None:
    """A shape outside of a context's own is refused, and so is a change under work."""
    case = Case(Gpu(pace=late))
    assert case.run((2, 77))
    engine: Any = case.engine
    plan, stream = engine._plan, engine._handle
    other = plan.new_context(stream, 0)
    assert not other.set_input_shape("ids", (2, 9)), "profile 0 ends at 8 tokens"
    assert not other.set_optimization_profile_async(len(PROFILES), stream)
    plan.change_profile(other, engine._profile, stream)
    assert other.set_input_shape("ids", (2, 77))
    assert engine._context.execute_async_v3(stream)
    with pytest.raises(EngineError, match="no enqueued operations pending"):
        plan.change_profile(engine._context, 0, stream)
    case.cuda.synchronize(engine._stream)  # type: ignore[union-attr]
    plan.change_profile(engine._context, 0, stream)
    assert not engine._context.set_input_shape("ids", (2, 77)), "profiles were changed behind it"
    del other
    assert case.close() == []


# --- failures --------------------------------------------------------------------------------

SCRIPT = (
    *(((2, 8), False), ((2, 8), False), ((2, 8), True), ((1, 77), False)),  # captured, replayed
    *(((9, 16), False), ((9, 16), False), ((2, 8), False), ((2, 8), False)),  # grown
    ((9, 16), False),
)
"""Shapes, and whether the run is timed."""


def played(gpu: Gpu, change: Callable[[Case], None] = nothing) -> tuple[Case, list[str]]:
    """The script on a GPU, and what was wrong."""
    case = Case(gpu, change)
    for shape, timed in SCRIPT:
        case.run(shape, timed=timed)
    return case, case.close()


@functools.cache
def calls_of_the_script() -> tuple[str, ...]:
    """Every call that the script makes of CUDA and TensorRT, in order."""
    case, wrong = played(Gpu())
    assert (wrong, case.errors) == ([], [])
    return tuple(case.gpu.calls)


def test_the_script_makes_every_call_that_there_is() -> None:
    made = set(calls_of_the_script())
    there = {name for name in vars(Gpu) if name.startswith("cuda")} - {"cudaHostAllocDefault"}
    there -= {"cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode", "cudaStreamNonBlocking"}
    assert there - made == {"cudaGetErrorString", "cudaMemGetInfo"}, "asked after failures alone"


@pytest.mark.parametrize("kind", FAULTS)
def test_a_failure_at_any_call_costs_one_run_and_no_more(kind: str) -> None:
    """Each call in turn; after one that breaks CUDA for good, each run says so."""
    for at, name in enumerate(calls_of_the_script(), 1):
        gpu = Gpu(fault=lambda number, name, at=at: kind if number == at else None)
        case, wrong = played(gpu)
        where = f"{kind} at call {at}, {name}"
        assert wrong == [], where
        if kind == "sticky":
            assert len(case.errors) + len(case.results) == len(SCRIPT), where
            for words in case.errors:
                assert "start it again (cudaErrorIllegalAddress)" in words, where
        else:
            assert len(case.errors) <= 1, where
        if kind == "interrupt" and case.errors:
            assert case.errors == ["interrupted"], where


def test_a_failure_in_a_capture_or_at_the_end_fails_no_run() -> None:
    """What is swallowed is what no result needs: captures, contexts for them, frees at the end."""
    calls = calls_of_the_script()
    end = len(calls) - calls[::-1].index("cudaStreamSynchronize")
    quiet = {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"}
    quiet |= {"cudaGraphDestroy"}
    for at, name in enumerate(calls, 1):
        if name in quiet or at >= end:
            gpu = Gpu(fault=lambda number, name, at=at: "refused" if number == at else None)
            case, wrong = played(gpu)
            assert (wrong, case.errors, len(case.results)) == ([], [], len(SCRIPT)), (at, name)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(FEW_SHAPES, st.booleans()), min_size=3, max_size=12),
    pace=st.sampled_from(PACES),
    faults=st.dictionaries(st.integers(1, 300), st.sampled_from(("refused", "interrupt"))),
    breaks=st.one_of(st.none(), st.integers(1, 400)),
)
def test_any_failures_in_any_order_leave_right_results_or_words(
    shapes: list[tuple[tuple[int, int], bool]],
    pace: Callable[[str], float],
    faults: dict[int, str],
    breaks: int | None,
) -> None:
    gpu = Gpu(pace=pace)
    gpu.fault = lambda number, name: "sticky" if number == breaks else faults.get(number)
    case = Case(gpu)
    for shape, timed in shapes:
        case.run(shape, timed=timed)
    if gpu.sticky is None:
        assert len(case.errors) <= len(faults)
        gpu.fault = lambda number, name: None
        assert case.run((3, 8)), "healthy again"
    assert case.close() == []


# --- engines that are wrong ------------------------------------------------------------------

MUTANTS: dict[str, Callable[[Any], None]] = {}
"""Ways to spoil an engine that was just opened, each of which has to be seen."""


def mutant(spoil: Callable[[Any], None]) -> Callable[[Any], None]:
    MUTANTS[spoil.__name__] = spoil
    return spoil


@mutant
def waits_for_nothing(case: Any) -> None:
    case.cuda.synchronize = lambda stream: None


@mutant
def returns_pinned_memory_itself(case: Any) -> None:
    engine, run = case.engine, case.engine.run

    def aliased(array: np.ndarray) -> np.ndarray:
        output = run(array)
        return engine._out.host[: output.nbytes].view(np.float32).reshape(output.shape)

    engine.run = aliased


@mutant
def one_pinned_piece_for_all(case: Any) -> None:
    engine = case.engine

    def copy_in(array: np.ndarray) -> None:
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, source.size, tensorrt.CHUNK_BYTES):
            part = source[start : start + tensorrt.CHUNK_BYTES]
            pinned = engine._in.host[: part.size]
            pinned[:] = part
            case.cuda.to_device(engine._in.address + start, pinned, engine._stream)

    engine._copy_in = copy_in


@mutant
def clears_pinned_memory_behind_a_copy(case: Any) -> None:
    copy_in = case.engine._copy_in

    def cleared(array: np.ndarray) -> None:
        copy_in(array)
        case.engine._in.host[:] = 0

    case.engine._copy_in = cleared


@mutant
def copies_in_the_default_stream(case: Any) -> None:
    to_device = case.cuda.to_device
    case.cuda.to_device = lambda address, source, stream: to_device(address, source, LEGACY)


@mutant
def frees_input_before_its_use(case: Any) -> None:
    copy_in = case.engine._copy_in

    def freed(array: np.ndarray) -> None:
        copy_in(array)
        case.engine._in.free()

    case.engine._copy_in = freed


@mutant
def keeps_graphs_when_buffers_move(case: Any) -> None:
    case.engine._forget_shapes = lambda: None


@mutant
def one_context_for_all_graphs(case: Any) -> None:
    plan, kept = case.engine._plan, {}
    new_context = plan.new_context

    def shared(stream: int, profile: int) -> Any:
        if not kept:
            kept[0] = new_context(stream, profile)
        plan.change_profile(kept[0], profile, stream)
        return kept[0]

    plan.new_context = shared


@mutant
def never_changes_its_profile(case: Any) -> None:
    case.engine._plan.change_profile = lambda context, profile, stream: None


@mutant
def changes_its_profile_in_another_stream(case: Any) -> None:
    change = case.engine._plan.change_profile
    other = case.cuda.stream()
    case.engine._plan.change_profile = lambda context, profile, stream: change(
        context, profile, case.cuda.stream_handle(other)
    )


@mutant
def runs_in_the_first_profile_that_holds(case: Any) -> None:
    plan = case.engine._plan
    plan.profile_of = lambda shape: next(
        place for place, profile in enumerate(plan.profiles) if holds(profile, shape)
    )


@mutant
def changes_its_profile_behind_a_run(case: Any) -> None:
    engine, enqueue = case.engine, case.engine._enqueue

    def changed(context: Any) -> None:
        enqueue(context)
        engine._plan.change_profile(context, 0, engine._handle)

    engine._enqueue = changed


@mutant
def keeps_its_memory_for_another_profile(case: Any) -> None:
    case.module.busier = lambda profile: 1 + 9 * (profile == chosen(PROFILES, (9, 16)))
    grow = case.engine._work.grow
    case.engine._work.grow = lambda size: grow(min(size, 64 * WORK))


@mutant
def captures_before_a_run(case: Any) -> None:
    bound_alone = case.engine._bound_alone

    def captured(shape: tuple[int, ...]) -> Any:
        kept = bound_alone(shape)
        case.engine._capture(kept)
        return kept

    case.engine._bound_alone = captured


@mutant
def waits_in_a_capture(case: Any) -> None:
    enqueue = case.engine._enqueue

    def waiting(context: Any) -> None:
        enqueue(context)
        case.cuda.synchronize(case.engine._stream)

    case.engine._enqueue = waiting


@mutant
def allocates_in_a_capture(case: Any) -> None:
    enqueue = case.engine._enqueue

    def allocating(context: Any) -> None:
        case.cuda.device_free(case.cuda.device_alloc(64))
        enqueue(context)

    case.engine._enqueue = allocating


@mutant
def asks_for_times_too_early(case: Any) -> None:
    to_host = case.cuda.to_host

    def asking(*args: Any) -> None:
        to_host(*args)
        case.cuda.record(case.engine._events[3], case.engine._stream)
        case.cuda.elapsed_s(case.engine._events[3], case.engine._events[3])

    case.cuda.to_host = asking


@mutant
def too_small_a_workspace(case: Any) -> None:
    grow = case.engine._work.grow
    case.engine._work.grow = lambda size: grow(size // 2)


@mutant
def frees_twice(case: Any) -> None:
    free = case.cuda.device_free

    def twice(memory: Any) -> None:
        free(memory)
        with contextlib.suppress(EngineError):
            free(memory)

    case.cuda.device_free = twice


@mutant
def forgets_pinned_memory(case: Any) -> None:
    case.cuda.host_free = lambda array: None


@mutant
def forgets_an_event(case: Any) -> None:
    case.engine._events.append(case.cuda.event())
    case.engine._events = case.engine._events[1:]


@mutant
def forgets_its_graphs(case: Any) -> None:
    case.cuda.graph_free = lambda graph: None


@mutant
def forgets_its_stream(case: Any) -> None:
    case.cuda.stream_free = lambda stream: None


def seen(case: Case, wrong: list[str], *, errors: int = 0) -> list[str]:
    """What shows that an engine is wrong, where so many runs may fail."""
    told = case.errors if len(case.errors) > errors else []
    refused = [] if errors else [f"{name}: {error.name}" for name, error in case.gpu.refused]
    return wrong + told + refused


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_engine_is_seen(name: str) -> None:
    found = [seen(*played(Gpu(pace=pace), MUTANTS[name])) for pace in PACES]
    assert any(found)


@pytest.mark.parametrize("pace", PACES)
def test_nothing_is_seen_where_nothing_is_wrong(pace: Callable[[str], float]) -> None:
    assert seen(*played(Gpu(pace=pace))) == []


def failing(change: Callable[[Case], None]) -> list[str]:
    """What shows first with a failure at each call, of an engine that hides it else.

    Neighbours are alike, so that it looks here and there first.
    """
    for at in sorted(range(1, len(calls_of_the_script()) + 1), key=lambda at: at % 13):
        gpu = Gpu(fault=lambda number, name, at=at: "refused" if number == at else None)
        if found := seen(*played(gpu, change), errors=1):
            return found
    return []


def takes_any_address_for_accepted(case: Any) -> None:
    new_context = case.engine._plan.new_context

    def trusting(*args: Any) -> Any:
        context = new_context(*args)
        tell = context.set_tensor_address
        context.set_tensor_address = lambda name, address: tell(name, address) or True
        return context

    case.engine._plan.new_context = trusting
    tell = case.engine._context.set_tensor_address
    case.engine._context.set_tensor_address = lambda name, address: tell(name, address) or True


def trusts_a_change_of_profile_that_failed(case: Any) -> None:
    engine = case.engine
    change = engine._plan.change_profile

    def trusting(context: Any, profile: int, stream: int) -> None:
        try:
            change(context, profile, stream)
        except EngineError:
            engine._profile = profile
            raise

    engine._plan.change_profile = trusting


def goes_on_over_unfinished_work(case: Any) -> None:
    case.engine._run = case.engine._ran


def stops_closing_at_the_first_error(case: Any) -> None:
    engine, cuda = case.engine, case.cuda

    def close() -> None:
        with contextlib.suppress(EngineError):
            cuda.synchronize(engine._stream)
            engine._forget_shapes()
            for buffer in (engine._in, engine._out, engine._work):
                buffer.free()
            for event in engine._events:
                cuda.event_free(event)
            cuda.stream_free(engine._stream)
        engine._shapes.clear()
        engine._context = None
        engine._plan.close()

    engine.close = close


@pytest.mark.parametrize(
    "change",
    [
        takes_any_address_for_accepted,
        trusts_a_change_of_profile_that_failed,
        goes_on_over_unfinished_work,
        stops_closing_at_the_first_error,
    ],
)
def test_an_engine_that_is_wrong_after_failures_is_seen(change: Callable[[Case], None]) -> None:
    assert failing(change), "a failure at any call of the right one shows nothing: see above"


def test_runs_that_take_no_turns_are_seen() -> None:
    """Of two threads that are both behind copying in, one gets what the other asked for."""
    case = Case(Gpu(pace=late))
    case.run((2, 8))
    engine: Any = case.engine
    both, copy_in = threading.Barrier(2, timeout=30), engine._copy_in

    def together(array: np.ndarray) -> None:
        copy_in(array)
        both.wait()

    engine._cuda.there = lambda call: call()
    engine._capturing, engine._copy_in = False, together
    asked = [tokens((2, 8), number) for number in (1, 2)]
    got: dict[int, np.ndarray] = {}
    run_together(lambda number: got.update({number: engine.run(asked[number])}), 2)
    right = [np.array_equal(got[number], expected(asked[number])) for number in (0, 1)]
    assert not all(right)
    case.close()


def test_growth_that_keeps_other_shapes_memory_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace of the first shape is what the input of the second lacks."""
    enough = 60 * 8 * 8 + 60 * EMBED * 4 + 60 * WORK
    for spoilt in (False, True):
        if spoilt:
            monkeypatch.setattr(
                tensorrt, "grow_all", lambda needed: [buffer.grow(size) for buffer, size in needed]
            )
        case = Case(Gpu(capacity=5000 + 16 + enough))
        assert case.run((60, 8))
        assert case.run((10, 77)) == (not spoilt), "10 * 77 * 8 + 10 * 12 + 10 * 50 bytes are there"
        assert case.close() == []


def test_a_refusal_has_cudas_own_code() -> None:
    """What an engine is told in a capture is what CUDA would tell it."""
    case, _ = played(Gpu(), MUTANTS["waits_in_a_capture"])
    codes = {error for name, error in case.gpu.refused if name == "cudaStreamSynchronize"}
    assert codes == {cudaError_t.cudaErrorStreamCaptureUnsupported}
