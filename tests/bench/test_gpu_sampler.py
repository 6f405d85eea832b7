"""The GPU's meters: a real sampler process, and in it an NVML whose every answer is scripted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import Fake, in_this_process, installer
from measuring import measure_group

from clipperf.bench import gpu_meters, gpu_sampler, passes
from clipperf.bench.cost import QUICK
from clipperf.bench.gpu_figures import NO_ENERGY, Sample, Seen, summarise
from clipperf.bench.gpu_meters import GpuSampler
from clipperf.engines.tensorrt import cuda as cuda_driver
from clipperf.errors import EngineError, MeasurementError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.system import env as environment
from clipperf.system import gpus
from clipperf.system.child import child_environment

pytestmark = pytest.mark.timing

MIB = 2**20
TWO = [
    {"uuid": "GPU-aa", "title": "Big", "bus": 3},
    {"uuid": "GPU-bb", "title": "Little", "bus": 9},
]
FAST = replace(
    QUICK,
    min_s=0.0,
    min_runs=6,
    max_s=5.0,
    block_s=0.0,
    sleep_s=0.0,
    target_rel_width=9.0,
    gpu_load_s=0.4,
    phase_runs=4,
)
SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)
BITS = {4: "power cap", 8: "hardware slowdown"}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return installer(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def env() -> Any:
    return environment.capture()


def wait_until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end, "waited 30 s in vain"
        time.sleep(0.02)


def sampled(log: Path, count: int, pid: int | None = None, gpu: str = "0") -> Any:
    """What a real sampler sees in `count` readings or more."""
    meter = GpuSampler(gpu)
    try:
        meter.begin(pid)
        wait_until(lambda: log.stat().st_size >= count)
        return meter.end()
    finally:
        meter.close()


# --- summaries -----------------------------------------------------------------------------


def test_energy_from_power_samples_is_the_area_under_them() -> None:
    powers = ((0.0, 100_000), (1.0, 200_000), (1.5, None), (2.0, 400_000))
    seen = summarise([Sample(at, power_mw=mw) for at, mw in powers], BITS)
    # (100 + 200) / 2 * 1 s + (200 + 400) / 2 * 1 s
    assert (seen.energy_j, seen.energy_source) == (450.0, "power samples")
    assert seen.power_w == pytest.approx(700 / 3)
    assert seen.samples == 4


def test_the_energy_counter_comes_first_unless_it_stands_still() -> None:
    samples = [Sample(0.0, power_mw=50_000), Sample(2.0, power_mw=50_000)]
    counted = summarise(samples, BITS, counted_mj=123_456)
    assert (counted.energy_j, counted.energy_source) == (123.456, "counter")
    stuck = summarise(samples, BITS, counted_mj=0)
    assert (stuck.energy_j, stuck.energy_source) == (100.0, "power samples")


def test_vram_by_process_replaces_vram_by_device() -> None:
    used = [Sample(0.0, used_bytes=9000), Sample(0.1, None, 9500), Sample(0.2, None, 1500)]
    assert summarise(used, BITS, 1000).vram_peak_bytes == 8500
    assert summarise(used, BITS, 1000).vram_source == "nvml-device-delta"
    freed = summarise(used, BITS, 9900)  # others gave back more than the worker took
    assert freed.vram_peak_bytes is freed.vram_source is None, "unknown, not 0"
    assert freed.missing == ("memory: the device's use never rose over what it was before",)
    assert summarise(used, BITS).vram_peak_bytes is None, "no baseline, no change"
    own = [*used, Sample(0.3, 70, 9999), Sample(0.4, 50, 9999)]
    seen = summarise(own, BITS, 1000)
    assert (seen.vram_peak_bytes, seen.vram_source) == (70, "nvml-process")
    contained = [replace(sample, process_bytes=0) for sample in used]
    seen = summarise(contained, BITS, 1000)  # a container hides what processes use
    assert (seen.vram_peak_bytes, seen.vram_source) == (8500, "nvml-device-delta")


def test_clocks_heat_and_reasons() -> None:
    samples = [
        Sample(0.0, sm_clock_mhz=1980, temperature_c=60, reasons=0x1),
        Sample(0.1, sm_clock_mhz=1410, temperature_c=71, reasons=0x4),
        Sample(0.2, sm_clock_mhz=1700, temperature_c=70, reasons=0x2),
    ]
    seen = summarise(samples, BITS)
    assert seen.sm_clock_mhz == (1410, 1980)
    assert seen.temperature_c == 71
    assert seen.throttle == ("power cap",)
    nothing = summarise([Sample(0.0)], BITS)
    assert nothing == Seen(samples=1)


# --- the process ---------------------------------------------------------------------------


def test_a_real_sampler_follows_the_script(fake: Fake) -> None:
    log = fake(
        used=[5000],
        processes=[[], [[7, 300]], [[1, 9000], [7, 700]], [[7, 500]]],
        energy_mj=[10_000, 12_500],
        power_mw=[100_000, 300_000, 200_000, 200_000],
        sm_mhz=[1500, 1200, 1800, 1600],
        temperature=[50, 66, 60],
        reasons=[0x1 | 0x2, 0x0, 0x4 | 0x40, 0x100],
    )
    seen = sampled(log, 6, pid=7)
    assert (seen.vram_peak_bytes, seen.vram_source) == (700, "nvml-process")
    assert (seen.energy_j, seen.energy_source) == (2.5, "counter")
    assert seen.sm_clock_mhz == (1200, 1800)
    assert seen.temperature_c == 66
    # Idle, application clocks and display clocks are no throttling.
    assert seen.throttle == ("power cap", "hardware thermal slowdown")
    assert seen.samples >= 6
    assert seen.power_w == pytest.approx((600 + 200 * (seen.samples - 3)) / seen.samples)


def test_without_a_counter_power_times_time_is_the_energy(fake: Fake) -> None:
    log = fake(power_mw=[150_000])
    start = time.monotonic()
    seen = sampled(log, 20)
    most = time.monotonic() - start
    assert seen.energy_source == "power samples"
    # 150 W from the first sample to the last, at least 15 ms apart each but the last.
    assert 150 * 0.015 * (seen.samples - 2) <= seen.energy_j <= 150 * most
    assert seen.power_w == 150
    assert seen.vram_peak_bytes is seen.vram_source is None, "nobody asked for memory"


def test_hidden_processes_leave_the_device_delta(fake: Fake) -> None:
    log = fake(used=[1000, 1400, 2900, 1500], processes=[[], [[7, None]], []])
    seen = sampled(log, 5, pid=7)
    assert (seen.vram_peak_bytes, seen.vram_source) == (1900, "nvml-device-delta")


def test_what_nvml_does_not_support_is_none(fake: Fake) -> None:
    seen = sampled(fake(), 3, pid=7)
    untold = ("memory in use", "power", "SM clock", "temperature", "reasons for lower clocks")
    missing = tuple(f"{what}: NVML says Not Supported" for what in untold)
    assert seen == Seen(samples=seen.samples, missing=(*missing, NO_ENERGY))


def test_each_stretch_starts_afresh_and_idle_means_no_reading(fake: Fake) -> None:
    log = fake(power_mw=[900_000, 100_000], energy_mj=[1000, 4000, 4000, 9000])
    meter = GpuSampler("GPU-fake")
    try:
        assert log.stat().st_size == 0
        meter.begin()
        first = meter.end()
        between = log.stat().st_size
        time.sleep(0.2)
        assert log.stat().st_size == between
        meter.begin()
        second = meter.end()
    finally:
        meter.close()
        meter.close()
    assert first is not None and second is not None
    assert (first.energy_j, second.energy_j) == (3.0, 5.0)
    assert (first.power_w or 0) > 100 and second.power_w == 100


@pytest.mark.parametrize(
    ("gpu", "script", "reason"),
    [
        ("0", {"init": ["NVML Shared Library Not Found"]}, "Library Not Found; `nvidia-smi` must"),
        ("3", {}, "GPU 3: NVML says Invalid Argument; `nvidia-smi -L`"),
        ("GPU-other", {}, "GPU GPU-other: NVML says Not Found"),
    ],
)
def test_an_nvml_that_does_not_work_is_told(
    gpu: str, script: dict[str, Any], reason: str, fake: Fake
) -> None:
    fake(**script)
    with pytest.raises(MeasurementError, match=reason):
        GpuSampler(gpu)


def test_a_sampler_that_dies_is_no_error(fake: Fake) -> None:
    fake(power_mw=[1000])
    with gpu_meters.sampler("cuda") as meter:
        assert meter is not None
        meter.begin()
        os.kill(meter.pid, signal.SIGTERM)
        assert meter.end() is None
        meter.begin()
        assert meter.end() is None


PARENT = """
import sys
from types import SimpleNamespace
from clipperf.bench import passes
from clipperf.bench.cost import QUICK
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec

spec = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)
cell = Cell("sim", "image", "simulated", "fp16", "cuda", 1, 1)
try:
    passes.memory_pass(EngineRequest(cell, spec, sys.argv[1]), QUICK, SimpleNamespace(id="env"))
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 7), (signal.SIGKILL, -9)])
def test_sampler_and_worker_end_with_their_parent(
    how: signal.Signals, code: int, fake: Fake, tmp_path: Path
) -> None:
    import psutil

    log = fake(power_mw=[1000], used=[1000], processes=[[]])
    script = tmp_path / "hang.json"
    script.write_text(json.dumps({"fail_at": "run", "how": "hang"}))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(script)],
        env=child_environment(1),
        # A suite started in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: log.stat().st_size >= 3)
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2, "the sampler and the worker"
    os.kill(parent.pid, how)
    assert parent.wait(timeout=30) == code
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_importing_the_sampler_imports_no_runtime() -> None:
    code = (
        "import sys, clipperf.bench.gpu_sampler; heavy = {'torch', 'onnxruntime', 'jinja2', "
        "'pynvml'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment(1))


# --- which GPU -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "visible", "gpu"),
    [
        ("cpu", None, None),
        ("cuda", None, "GPU-aa"),
        ("cuda:1", None, "GPU-bb"),
        ("cuda", "1,0", "GPU-bb"),
        ("cuda:1", "1, 0", "GPU-aa"),
        ("cuda:0", "GPU-bb", "GPU-bb"),
        ("cuda:1", "GPU-bb", "1"),  # which no sampler finds
    ],
)
def test_gpu_of_a_device(
    device: str,
    visible: str | None,
    gpu: str | None,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_this_process(fake(gpus=TWO), monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_meters.gpu_of(device) == gpu


def test_a_gpu_that_nvml_fails_at_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: str) -> str:
        raise EngineError("NVML does not tell which GPUs there are (GPU is lost)")

    def not_opened(gpu: str) -> Any:
        raise MeasurementError("NVML: GPU is lost")

    monkeypatch.setattr(gpus, "uuid_of", lost)
    monkeypatch.setattr(gpu_sampler, "opened", not_opened)
    assert (gpu_meters.gpu_of("cuda"), gpu_meters.gpu_of("cuda:1")) == ("0", "1")
    assert gpu_meters.available_vram_bytes("cuda") is None
    assert gpu_meters.family_vram_bytes("cuda", 1) is None


def test_what_is_measured_is_what_is_described(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second GPU: its VRAM is metered, it stands in the environment, and the worker sees it."""
    used = {"GPU-aa": [9000 * MIB, 9500 * MIB], "GPU-bb": [100 * MIB, 300 * MIB]}
    power = {"GPU-aa": [400_000], "GPU-bb": [70_000]}
    log = fake(gpus=TWO, used=used, power_mw=power)
    in_this_process(log, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")  # restored after the test
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    device = gpus.pin("cuda:0")
    assert device == "cuda"
    cell = Cell("sim", "image", "simulated", "fp16", device, 4, 1)
    script = tmp_path / "engine.json"
    script.write_text("{}")
    rows = measure_group([EngineRequest(cell, SPEC, str(script))], FAST, environment.capture())
    memory, timed = (next(row for row in rows if row.kind == kind) for kind in ("memory", "time"))
    assert (memory.status, timed.status) == ("ok", "ok")
    assert (memory.vram_peak_bytes, memory.vram_source) == (200 * MIB, "nvml-device-delta")
    assert timed.gpu is not None and timed.gpu.power_w == 70.0
    described = environment.capture()
    assert (described.gpu, described.gpu_uuid) == ("Little", "GPU-bb")
    assert child_environment(1)["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
    assert child_environment(1)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_nothing_to_read_on_the_cpu() -> None:
    with gpu_meters.sampler("cpu") as meter:
        assert meter is None
    assert gpu_meters.available_vram_bytes("cpu") is None


def test_nothing_to_read_without_a_gpu() -> None:
    if environment.gpu_state()[0] is not None:
        pytest.skip("this machine has an NVIDIA GPU")
    with gpu_meters.sampler("cuda") as meter:
        assert meter is None
    assert gpu_meters.available_vram_bytes("cuda") is None


@pytest.mark.gpu
@pytest.mark.usefixtures("one_gpu")
def test_a_real_gpu_answers() -> None:
    if environment.gpu_state()[0] is None or cuda_driver.package() is None:
        pytest.skip("needs an NVIDIA GPU, and cuda-bindings to take memory of it")
    assert (gpu_meters.available_vram_bytes("cuda") or 0) > 0
    with gpu_meters.sampler("cuda") as meter:
        assert meter is not None
        cuda = cuda_driver.open_cuda()
        held = cuda.device_alloc(64 << 20)  # a process that holds nothing has no figure
        meter.begin(os.getpid())
        time.sleep(1.5)
        seen = meter.end()
        cuda.device_free(held)
    assert seen is not None
    assert seen.samples >= 20
    assert seen.vram_peak_bytes is not None and seen.vram_source is not None


# --- in the passes -------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., EngineRequest]:
    """Requests for the simulated runtime on a GPU; `name` goes where the precision is."""

    def request(name: str, device: str = "cuda", **script: Any) -> EngineRequest:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(script))
        return EngineRequest(Cell("sim", "image", "simulated", name, device, 2, 1), SPEC, str(path))

    return request


def test_memory_pass_reads_vram_while_the_worker_lives(make: Any, env: Any, fake: Fake) -> None:
    # The baseline is 1000; what comes after the peak does not matter.
    log = fake(used=[1000, 1200, 9000, 3000], processes=[[]])
    row = passes.memory_pass(make("fp16", run_s=0.1, allocated_bytes=6 * MIB), FAST, env)
    assert row.status == "ok", row.error
    assert (row.vram_peak_bytes, row.vram_source) == (8000, "nvml-device-delta")
    assert row.vram_allocated_bytes == 6 * MIB
    assert row.rss_peak_bytes is not None
    assert log.stat().st_size > 3


def test_a_run_out_of_memory_keeps_the_vram_that_it_reached(
    make: Any, env: Any, fake: Fake
) -> None:
    fake(used=[1000, 5000], processes=[[]])
    row = passes.memory_pass(make("fp16", run_s=0.05, fail_at="run:2"), FAST, env)
    assert row.status == "failed"
    assert (row.vram_peak_bytes, row.vram_source) == (4000, "nvml-device-delta")


def test_without_nvml_the_runtime_counts(make: Any, env: Any, fake: Fake) -> None:
    fake(init=["Driver Not Loaded"])
    row = passes.memory_pass(make("fp16", allocated_bytes=7 * MIB), FAST, env)
    assert (row.vram_peak_bytes, row.vram_source) == (7 * MIB, "allocator")
    silent = passes.memory_pass(make("bf16"), FAST, env)
    assert silent.vram_peak_bytes is silent.vram_source is silent.vram_allocated_bytes is None


def test_load_and_phases_after_the_times(make: Any, env: Any, fake: Fake) -> None:
    fake(energy_mj=[1000, 61_000], power_mw=[150_000], sm_mhz=[1980], reasons=[0x4])
    requests = [
        make("fp16", run_s=0.01, phases_s=(0.001, 0.007, 0.002)),
        make("fp32", run_s=0.02),
    ]
    half, full = passes.time_pass(requests, FAST, env, "g")
    assert half.status == full.status == "ok", (half.error, full.error)
    assert half.error is full.error is None
    assert half.phases_s is not None and full.phases_s is None
    assert half.phases_s["h2d"] == (0.001,) * 4
    assert half.phases_s["compute"] == (0.007,) * 4
    assert half.phases_s["d2h"] == (0.002,) * 4
    assert len(half.phases_s["host"]) == 4 and min(half.phases_s["host"]) >= 0.01
    assert half.gpu is not None and full.gpu is not None
    assert (half.gpu.energy_j, half.gpu.energy_source) == (60.0, "counter")
    assert half.gpu.throttle == ("power cap",)
    assert half.gpu.sm_clock_mhz == (1980, 1980) and half.gpu.power_w == 150
    assert 0.4 <= half.gpu.seconds < 5
    # Without pause: 10 ms and 20 ms a run, whatever a busy machine adds.
    assert half.gpu.seconds / half.gpu.runs >= 0.01
    assert full.gpu.seconds / full.gpu.runs >= 0.02
    assert half.gpu.runs > 1
    assert len(half.run_s) >= 6 and half.stable


def test_what_fails_after_the_times_does_not_lose_them(make: Any, env: Any, fake: Fake) -> None:
    fake(power_mw=[1000])
    # 1 first run and 6 blocks of 4 runs come before it.
    settled = replace(FAST, target_rel_width=float("inf"))  # after 6 blocks, however noisy
    row = passes.time_pass([make("fp16", run_s=0.001, fail_at="run:26")], settled, env, "g")[0]
    assert row.status == "ok"
    assert len(set(row.blocks)) == 6 and row.stable
    assert row.gpu is None and row.phases_s is None
    assert "told to fail" in (row.error or "")


def test_no_sampler_for_cells_on_the_cpu(
    make: Any, env: Any, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(gpu: str) -> None:
        raise AssertionError("a sampler was started")

    fake(power_mw=[1000])
    monkeypatch.setattr(gpu_meters, "GpuSampler", never)
    request = make("fp32", "cpu", allocated_bytes=5, phases_s=(0.1, 0.1, 0.1))
    for row in measure_group([request], FAST, env):
        assert row.status == "ok", row.error
        assert row.gpu is row.phases_s is row.vram_peak_bytes is row.vram_allocated_bytes is None
