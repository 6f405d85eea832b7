"""The TensorRT engine without a GPU.

The project's own layer of CUDA calls a GPU that keeps CUDA's rules (`cuda_rules`), and so does a
TensorRT (`tensorrt_rules`) that computes output[b, k] = (k + 1) * sum(input[b]). Plans of the real
TensorRT for RTX are loaded as far as a machine without a GPU allows.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_rules import LEGACY, Gpu, driver
from tensorrt_rules import EMBED, WIDTH, Context, TensorRT, info, request

from clipperf.engines import contract
from clipperf.engines.tensorrt import cuda as cuda_driver
from clipperf.engines.tensorrt import engine as tensorrt
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.engines.tensorrt import plan as plan_module
from clipperf.engines.tensorrt.engine import TensorRTEngine
from clipperf.errors import ArtifactError, EngineError, MissingDependencyError
from clipperf.nouns.artifact import TensorSpec
from clipperf.nouns.cell import Phases
from clipperf.system import nvidia
from clipperf.system.env import gpu_state

MAX_BATCH = 64
WORK_PER_ROW = 100

# --- plumbing --------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "image.plan"
    path.write_bytes(b"plan")
    plan_file.write(path, info(path))
    return path


Open = Callable[..., tuple[TensorRTEngine, Gpu, TensorRT]]


@pytest.fixture
def opened(plan: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """`opened(flavour, ...)` opens the stand-in plan.

    Every engine is closed afterwards; then nothing may be left on a GPU, and no rule be broken.
    """
    engines: list[TensorRTEngine] = []
    gpus: list[Gpu] = []

    def make(
        flavour: str = "trt-rtx",
        gpu: Gpu | None = None,
        *,
        cache: Path | None = None,
        setup: Callable[[TensorRT], object] = bool,
        graphs: bool = True,
        **changes: Any,
    ) -> tuple[TensorRTEngine, Gpu, TensorRT]:
        gpu = gpu or Gpu()
        gpus.append(gpu)
        known = info(plan, flavour=flavour, **changes)
        module = TensorRT(gpu, known, rtx=flavour == "trt-rtx", work=WORK_PER_ROW)
        setup(module)
        monkeypatch.setattr(flavours, "load", lambda name: module)
        monkeypatch.setattr(flavours, "installed", lambda name: True)
        monkeypatch.setattr(flavours, "version", lambda name: "1.2.3")
        monkeypatch.setattr(cuda_driver, "open_cuda", lambda: driver(gpu, graphs=graphs))
        plan_file.write(plan, known)
        engines.append(tensorrt.open(request(plan, flavour, cache)))
        return engines[-1], gpu, module

    yield make
    for engine in engines:
        engine.close()
    engines.clear()
    gc.collect()  # errors that a test kept hold contexts
    for gpu in gpus:
        gpu.check_freed()
        assert (gpu.broken, gpu.left()) == ([], {})


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
    engine, gpu, module = opened()
    launches = []
    for turn in range(4):
        np.testing.assert_array_equal(engine.run(batch(8, turn)), expected(8, turn))
        launches.append((engine.graphs, gpu.launched))
    assert launches == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert module.contexts == 2, "one for plain runs, one for the graph"


def test_a_graph_survives_runs_of_other_shapes(opened: Open) -> None:
    engine, gpu, _ = opened()
    for turn, rows in enumerate((8, 8, 8, 3, 3, 3, 5, 8)):
        np.testing.assert_array_equal(engine.run(batch(rows, turn)), expected(rows, turn))
    assert (engine.graphs, gpu.launched) == (2, 3)


def test_growing_drops_graphs_and_frees_what_was_there(opened: Open) -> None:
    engine, gpu, _ = opened()
    for _ in range(3):
        engine.run(batch(2))
    small = gpu.used()
    assert small == 2 * (WIDTH * 4 + EMBED * 4 + WORK_PER_ROW)
    np.testing.assert_array_equal(engine.run(batch(10)), expected(10))
    assert (gpu.used(), engine.graphs) == (5 * small, 0)
    for turn in range(3):
        np.testing.assert_array_equal(engine.run(batch(2, turn)), expected(2, turn))
    assert (gpu.used(), engine.graphs) == (5 * small, 1)
    assert len(gpu.pinned) == 2


def test_only_the_latest_shapes_keep_a_graph(opened: Open) -> None:
    engine, gpu, _ = opened()
    engine.run(batch(MAX_BATCH))
    for rows in range(1, tensorrt.SHAPES + 3):
        for _ in range(2):
            engine.run(batch(rows))
    assert engine.graphs == tensorrt.SHAPES
    assert len(gpu.executables) == tensorrt.SHAPES, "graphs of forgotten shapes are destroyed"
    np.testing.assert_array_equal(engine.run(batch(1)), expected(1))
    np.testing.assert_array_equal(engine.run(batch(MAX_BATCH)), expected(MAX_BATCH))


def test_without_graphs_all_runs_are_plain_on_one_context(opened: Open) -> None:
    engine, gpu, module = opened(graphs=False)
    for turn, rows in enumerate((8, 8, 8, 2, 8)):
        np.testing.assert_array_equal(engine.run(batch(rows, turn)), expected(rows, turn))
    assert (engine.graphs, gpu.launched, module.contexts) == (0, 0, 1)


def test_a_context_that_is_not_capturable_runs_plain(opened: Open) -> None:
    engine, gpu, module = opened(setup=lambda m: setattr(m, "capturable", False))
    for turn in range(4):
        np.testing.assert_array_equal(engine.run(batch(8, turn)), expected(8, turn))
    assert (engine.graphs, gpu.launched, module.contexts) == (0, 0, 2)


def test_a_failed_capture_is_not_a_failed_run(opened: Open) -> None:
    engine, gpu, _ = opened(setup=lambda m: setattr(m, "fail_capture", "not permitted"))
    for turn, rows in enumerate((8, 8, 8, 4, 4, 8)):
        np.testing.assert_array_equal(engine.run(batch(rows, turn)), expected(rows, turn))
    assert (engine.graphs, gpu.launched) == (0, 0)


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
    gpu = Gpu()
    cuda = driver(gpu)
    stream = cuda.stream()

    def enqueue() -> None:
        raise error

    with pytest.raises(type(error)):
        cuda.capture(stream, enqueue)
    cuda.synchronize(stream)
    assert (gpu.graphs, gpu.broken) == ({}, [])


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
    engine, gpu, _ = opened(inputs=(tokens,))
    columns = np.asfortranarray(batch(5).astype(np.int32))
    np.testing.assert_array_equal(engine.run(columns), expected(5))
    assert gpu.copies == 6, "5 * 6 * 8 bytes in pieces of 40"


def test_half_precision_outputs_become_float32(opened: Open) -> None:
    out = TensorSpec("image_embeds", "float16", ("batch", EMBED))
    engine, gpu, _ = opened(outputs=(out,))
    result = engine.run(batch(2))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected(2))
    assert gpu.used() == 2 * (WIDTH * 4 + EMBED * 2 + WORK_PER_ROW)


def test_phases_are_copy_in_compute_and_copy_out(opened: Open) -> None:
    """The GPU's clock: 1 s for a piece copied in, 10 for computing, 100 for copying out."""
    seconds = {"profile": 0.0, "h2d": 1.0, "kernel": 10.0, "d2h": 100.0, "event": 0.0}
    engine, _, _ = opened(gpu=Gpu(pace=seconds.__getitem__, step=0.0))
    for turn in range(3):
        output, phases = engine.run_phases(batch(4, turn))
        np.testing.assert_array_equal(output, expected(4, turn))
        assert phases == Phases(h2d_s=1.0, compute_s=10.0, d2h_s=100.0)


def test_two_engines_and_two_threads_do_not_mix(opened: Open) -> None:
    gpu = Gpu()
    engines = [opened(gpu=gpu)[0], opened(gpu=gpu)[0]]
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
    engine, gpu, _ = opened()
    assert engine.allocated_bytes() == 5000, "as the engine's own statistics say"
    engine.run(batch(8))
    assert engine.allocated_bytes() == 5000 + gpu.used()
    plain, gpu, _ = opened("trt")
    plain.run(batch(8))
    assert plain.allocated_bytes() == len(b"plan") + gpu.used()


@pytest.mark.parametrize("flavour", ["trt", "trt-rtx"])
def test_close_frees_everything_and_is_safe_twice(opened: Open, flavour: str) -> None:
    engine, gpu, _ = opened(flavour)
    for _ in range(3):
        engine.run(batch(8))
    engine.close()
    engine.close()
    assert list(gpu.streams) == [LEGACY]
    assert (gpu.memory, gpu.pinned, gpu.events, gpu.executables) == ({}, {}, {}, {})
    assert engine.allocated_bytes() == 0
    with pytest.raises(EngineError, match="closed"):
        engine.run(batch(8))


def test_a_batch_too_large_for_the_gpu_fails_and_a_smaller_one_still_runs(opened: Open) -> None:
    row = WIDTH * 4 + EMBED * 4 + WORK_PER_ROW
    engine, _, _ = opened(gpu=Gpu(capacity=10 * row + 5000 + 2 * 64))
    for _ in range(3):
        engine.run(batch(4))
    with pytest.raises(EngineError, match=r"out of GPU memory: .*use a smaller --batch"):
        engine.run(batch(11))
    np.testing.assert_array_equal(engine.run(batch(4)), expected(4))


def test_tensorrts_own_lack_of_memory_has_the_same_words(opened: Open) -> None:
    def full(module: TensorRT) -> None:
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
        opened(gpu=Gpu(kind="sm120"))
    with pytest.raises(EngineError, match=r"runs on sm75, .*, not on sm90: export .* trt on this"):
        opened(gpu=Gpu(kind="sm90"))


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
        plan_module.Plan(request(real_plan), real_plan, driver(Gpu(kind="sm86")))


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
    monkeypatch.setattr(cuda_driver, "open_cuda", lambda: driver(Gpu()))
    if flavours.installed("trt"):
        pytest.skip("TensorRT is installed")
    plan_file.write(plan, info(plan, flavour="trt"))
    with pytest.raises(MissingDependencyError, match=r"clipperf\[trt\]"):
        tensorrt.open(request(plan, "trt"))
