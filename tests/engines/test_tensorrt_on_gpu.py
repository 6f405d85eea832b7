"""What only a GPU can show. Every test skips, with its reason, where there is none."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli

from clipperf.bench import gpu_meters
from clipperf.bench.inputs import make_inputs
from clipperf.engines import contract
from clipperf.engines.tensorrt import cuda as cuda_driver
from clipperf.engines.tensorrt import flavours
from clipperf.errors import EngineError
from clipperf.export.make import make as made
from clipperf.export.plan_options import EngineSettings
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.variant import PRECISIONS, Side, Variant
from clipperf.system import store
from clipperf.system.env import gpu, version_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("one_gpu"),
    pytest.mark.skipif(gpu() is None, reason="no NVIDIA GPU or driver found"),
]

RUNTIMES = ("torch", "torch-compile", "ort-cuda", "ort-trt", "ort-trt-rtx", "trt", "trt-rtx")
FLAVOURS = ("trt", "trt-rtx")
BATCHES = (1, 8, 33)
MIN_COSINE = {"fp32": 0.99999, "tf32": 0.999, "fp16": 0.999}
MIB = 2**20

Request = Callable[..., EngineRequest]


@pytest.fixture(scope="module")
def gpu_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for this file, so that every artifact is built once."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("gpu-home")
        patch.setenv("CLIPPERF_HOME", str(home))
        yield home


def need(name: str) -> None:
    """Skip where a runtime, or this kind of GPU for TensorRT for RTX, is not there."""
    found = contract.get(name).availability("cuda")
    if not found.usable:
        pytest.skip(f"{name}: {found.detail}")
    if name.endswith("trt-rtx") and flavours.installed("trt-rtx"):
        kinds = flavours.capabilities(flavours.load("trt-rtx")).targets
        if flavours.gpu_kind() not in kinds:
            pytest.skip(f"TensorRT for RTX runs on {', '.join(kinds)}, not on this GPU")


@pytest.fixture
def wanted(gpu_home: Path) -> Request:
    """`wanted("trt", "image", "fp16")`: the request for a tower of the sample, built if need be."""

    def make(
        name: str, side: Side = "image", precision: str = "fp32", *, most: int = 64
    ) -> EngineRequest:
        need(name)
        spec = zoo.resolve("clipperf-sample")
        cell = Cell(spec.id, side, name, precision, "cuda", 8, 1)
        kind = contract.get(name).artifact
        if kind is None:
            return EngineRequest(cell, spec, None)
        if kind == "onnx":
            variant = Variant(kind, PRECISIONS.get(precision).graph)
        else:
            variant = Variant(name, precision, settings=EngineSettings(batch=(1, 8, most)))
        done = made(spec, (side,), variant)
        tower = done.manifest.tower(side)
        assert tower is not None
        return EngineRequest(
            cell, spec, str(done.folder / tower.path), key=tower.key,
            cache_folder=str(store.cache_folder()),
        )  # fmt: skip

    return make


@contextmanager
def opened(request: EngineRequest) -> Iterator[Any]:
    engine = contract.get(request.cell.runtime).open(request)
    try:
        yield engine
    finally:
        engine.close()


def inputs(side: Side, rows: int) -> np.ndarray:
    spec = zoo.resolve("clipperf-sample")
    return make_inputs(
        EngineRequest(Cell(spec.id, side, "torch", "fp32", "cpu", rows, 1), spec, "")
    )


@functools.cache
def reference(side: Side, rows: int) -> np.ndarray:
    """PyTorch in fp32 on the CPU."""
    spec = zoo.resolve("clipperf-sample")
    request = EngineRequest(Cell(spec.id, side, "torch", "fp32", "cpu", rows, 2), spec, None)
    with opened(request) as engine:
        result: np.ndarray = engine.run(inputs(side, rows))
    return result


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return result


# --- right answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", RUNTIMES)
def test_parity_with_pytorch_on_the_cpu(wanted: Request, name: str, half: bool, side: Side) -> None:
    known = contract.get(name).precisions
    precision = "fp16" if half else next(p for p in ("fp32", "tf32") if p in known)
    with opened(wanted(name, side, precision)) as engine:
        for _ in range(3):  # plain, captured and replayed, where the engine has graphs
            for rows in BATCHES if name != "torch-compile" else BATCHES[1:2]:  # each takes 15 s
                result = engine.run(inputs(side, rows))
                assert (result.dtype, len(result)) == (np.float32, rows)
                assert cosines(result, reference(side, rows)).min() >= MIN_COSINE[precision]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_graph_gives_exactly_what_a_plain_run_gives(wanted: Request, flavour: str) -> None:
    if version_of("cuda-bindings") is None:
        pytest.skip("pycuda has no CUDA graphs")
    with opened(wanted(flavour, "image", "fp16")) as engine:
        plain = engine.run(inputs("image", 8))
        assert engine.graphs == 0
        engine.run(inputs("image", 8))
        assert engine.graphs == 1
        np.testing.assert_array_equal(engine.run(inputs("image", 8)), plain)
        np.testing.assert_array_equal(
            engine.run(inputs("image", 3)), engine.run(inputs("image", 3))
        )
        np.testing.assert_array_equal(engine.run(inputs("image", 8)), plain)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_batch_outside_the_profile_names_the_range(wanted: Request, flavour: str) -> None:
    with opened(wanted(flavour)) as engine:
        with pytest.raises(EngineError, match=r"takes batches 1 to 64, not 65; .*--batch 1:8:65"):
            engine.run(inputs("image", 65))
        assert len(engine.run(inputs("image", 64))) == 64


@pytest.mark.parametrize("name", ["torch", "ort-cuda", *FLAVOURS])
def test_two_engines_in_one_process_do_not_mix(wanted: Request, name: str) -> None:
    pixels, tokens = inputs("image", 8), inputs("text", 8)
    with opened(wanted(name, "image")) as image, opened(wanted(name, "text")) as text:
        alone = image.run(pixels), text.run(tokens)
        for _ in range(4):
            np.testing.assert_allclose(image.run(pixels), alone[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(text.run(tokens), alone[1], rtol=1e-5, atol=1e-5)
        image.close()
        np.testing.assert_allclose(text.run(tokens), alone[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_phases_are_all_there_and_within_the_hosts_time(wanted: Request, flavour: str) -> None:
    with opened(wanted(flavour)) as engine:
        for _ in range(3):
            engine.run(inputs("image", 33))
        start = time.perf_counter()
        output, phases = engine.run_phases(inputs("image", 33))
        host_s = time.perf_counter() - start
    assert min(phases.h2d_s, phases.compute_s, phases.d2h_s) > 0
    assert phases.h2d_s + phases.compute_s + phases.d2h_s < host_s
    assert cosines(output, reference("image", 33)).min() >= MIN_COSINE["tf32"]


def test_kernels_of_trt_rtx_are_kept(wanted: Request) -> None:
    request = wanted("trt-rtx", "image", "fp16")
    with opened(request) as engine:
        engine.run(inputs("image", 8))
    kept = list(store.cache_folder().glob("*.kernels"))
    assert kept
    assert all(path.stat().st_size > 0 for path in kept)
    written = [path.stat().st_mtime_ns for path in kept]
    with opened(request) as engine:
        engine.run(inputs("image", 8))
    assert [path.stat().st_mtime_ns for path in kept] == written, "nothing was compiled again"


# --- memory ----------------------------------------------------------------------------------


@contextmanager
def occupied(leave_bytes: int) -> Iterator[None]:
    """Hold all of the GPU's memory but `leave_bytes`."""
    cuda = cuda_driver.open_cuda()
    held = cuda.device_alloc(cuda.free_bytes() - leave_bytes)
    try:
        yield
    finally:
        cuda.device_free(held)


def test_the_vram_meter_sees_a_known_allocation() -> None:
    """In a container that hides processes, too: there nothing may have been taken before."""
    size = 512 * MIB
    with gpu_meters.sampler("cuda") as sampler:
        assert sampler is not None
        cuda = cuda_driver.open_cuda()
        first = cuda.device_alloc(8 * MIB)
        sampler.begin(os.getpid())
        before = sampler.end()
        sampler.begin(os.getpid())
        held = cuda.device_alloc(size)
        time.sleep(0.5)
        during = sampler.end()
        cuda.device_free(held)
        cuda.device_free(first)
    assert before is not None
    assert during is not None
    assert before.vram_source == during.vram_source
    assert before.vram_peak_bytes is not None
    assert during.vram_peak_bytes is not None
    seen = during.vram_peak_bytes - before.vram_peak_bytes
    assert seen == pytest.approx(size, abs=16 * MIB)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_allocated_bytes_agree_with_what_the_gpu_lost(wanted: Request, flavour: str) -> None:
    request = wanted(flavour)
    cuda = cuda_driver.open_cuda()
    with opened(request) as engine:
        engine.run(inputs("image", 1))
        small, free = engine.allocated_bytes(), cuda.free_bytes()
        engine.run(inputs("image", 64))
        grown = engine.allocated_bytes() - small
        assert grown >= inputs("image", 63).nbytes
        assert free - cuda.free_bytes() == pytest.approx(grown, abs=32 * MIB)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_engine_outlives_a_batch_that_is_too_large(wanted: Request, flavour: str) -> None:
    request = wanted(flavour, most=16384)
    with opened(request) as engine, occupied(512 * MIB):
        with pytest.raises(EngineError, match=r"out of GPU memory.*smaller --batch"):
            engine.run(inputs("image", 16384))
        assert cosines(engine.run(inputs("image", 8)), reference("image", 8)).min() > 0.999


@pytest.mark.parametrize("name", ["torch", "ort-cuda"])
def test_out_of_memory_is_a_failed_row_and_the_sweep_goes_on(
    gpu_home: Path, cli: Cli, tmp_path: Path, name: str
) -> None:
    need(name)
    file = tmp_path / "result.json"
    with occupied(3 * 1024 * MIB):
        done = cli(
            "profile", "clipperf-sample", "--runtime", name, "--device", "cuda", "--tower", "image",
            "--batch", "32768,8", "--quick", "--json", file, home=gpu_home,
        )  # fmt: skip
    rows = [
        (row["cell"]["batch"], row["status"], row["error"] or "")
        for row in json.loads(file.read_text())["measurements"]
    ]
    assert done.returncode == 1, done.stderr
    failed = [row for row in rows if row[0] == 32768]
    assert failed
    assert all(status == "failed" and "memory" in error for _, status, error in failed)
    assert {status for rows_, status, _ in rows if rows_ == 8} == {"ok"}


# --- the CUDA layer --------------------------------------------------------------------------


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> cuda_driver.Cuda:
    if version_of(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return cuda_driver.Cuda() if request.param == "cuda-bindings" else cuda_driver.PyCuda()


def test_bytes_come_back_and_events_keep_time(cuda: cuda_driver.Cuda) -> None:
    found = gpu()
    assert found is not None
    assert cuda.kind == "sm{}{}".format(*found.compute_capability)
    assert cuda.gpu == found.name
    size = 64 * MIB
    there, here, back = cuda.device_alloc(size), cuda.host_alloc(size), cuda.host_alloc(size)
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    here[:] = np.arange(size, dtype=np.uint32).astype(np.uint8)
    cuda.record(start, stream)
    cuda.to_device(int(there), here, stream)
    cuda.to_host(back, int(there), stream)
    cuda.record(end, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(back, here)
    # 128 MiB take 0.1 ms at 1 TB/s, more than any bus has, and 1 s at 128 MiB/s.
    assert 1e-4 < cuda.elapsed_s(start, end) < 1
    for event in (start, end):
        cuda.event_free(event)
    cuda.stream_free(stream)
    for array in (here, back):
        cuda.host_free(array)
    cuda.device_free(there)


def test_a_captured_copy_runs_only_when_launched() -> None:
    cuda = cuda_driver.open_cuda()
    if not cuda.graphs:
        pytest.skip("pycuda has no CUDA graphs")
    there, here, back = cuda.device_alloc(8), cuda.host_alloc(8), cuda.host_alloc(8)
    stream = cuda.stream()
    here[:], back[:] = 7, 0

    def copies() -> None:
        cuda.to_device(int(there), here, stream)
        cuda.to_host(back, int(there), stream)

    graph = cuda.capture(stream, copies)
    cuda.synchronize(stream)
    assert not back.any()
    for value in (7, 9):
        here[:] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert (back == value).all()
    cuda.graph_free(graph)


def test_more_memory_than_there_is_has_a_clear_error() -> None:
    cuda = cuda_driver.open_cuda()
    with pytest.raises(EngineError, match=r"needs \d+ MiB, \d+ MiB free; use a smaller --batch"):
        cuda.device_alloc(2**44)
