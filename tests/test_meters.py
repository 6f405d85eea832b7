import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipperf import processes
from clipperf.bench import meters
from clipperf.engines.simulated import touched

MIB = 2**20
linux_only = pytest.mark.skipif(
    sys.platform != "linux" or not os.access("/proc/self/clear_refs", os.W_OK),
    reason="needs a writable /proc/self/clear_refs",
)


@linux_only
def test_phases_are_told_apart() -> None:
    peak = meters.PhasePeak()
    peak.start()
    before = meters.rss_bytes()
    block = touched(64 * MIB)
    assert block is not None
    block.close()
    first = peak.take()
    assert before is not None and first is not None
    assert abs(first - before - 64 * MIB) < 2 * MIB
    assert peak.source == "VmHWM"
    peak.start()
    second = peak.take()
    assert second is not None
    assert abs(second - before) < 2 * MIB


def test_a_mark_that_cannot_be_reset_never_passes_off_an_older_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marks = iter([100, 300, 300, 300, 300, 400])
    monkeypatch.setattr(meters, "reset_peak_rss", lambda: False)
    monkeypatch.setattr(meters, "peak_rss_bytes", lambda: (next(marks), "ru_maxrss"))
    peak = meters.PhasePeak()
    seen = []
    for _ in range(3):
        peak.start()
        seen.append(peak.take())
    assert seen == [300, None, 400]
    assert peak.source == "ru_maxrss (not reset)"


def test_without_proc_the_source_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("ru_maxrss does not exist on Windows")
    monkeypatch.setattr(processes, "STATUS", tmp_path / "none")
    monkeypatch.setattr(meters, "CLEAR_REFS", tmp_path / "missing" / "none")
    peak, source = meters.peak_rss_bytes()
    assert source == "ru_maxrss"
    assert peak is not None and peak > MIB
    assert not meters.reset_peak_rss()
    assert (meters.rss_bytes() or 0) > MIB


def test_available_ram_respects_the_cgroup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meters, "CGROUP", tmp_path)
    unlimited = meters.available_ram_bytes()
    assert unlimited is not None
    (tmp_path / "memory.max").write_text(f"{50 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{30 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {10 * MIB}\n")
    assert meters.available_ram_bytes() == 30 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert (meters.available_ram_bytes() or 0) > 30 * MIB


@pytest.mark.parametrize(
    ("device", "visible", "index"),
    [
        ("cpu", "", None),
        ("cuda", "", 0),
        ("cuda:1", "", 1),
        ("cuda", "2,3", 2),
        ("cuda:1", "2,3", 3),
        ("cuda:0", "GPU-8f3d", 0),
    ],
)
def test_gpu_index(
    device: str, visible: str, index: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert meters.gpu_index(device) == index


class FakeNvml:
    """The three calls of NVML that the meter makes."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.used = 1000
        self.processes: list[Any] | None = []

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Any:
        return SimpleNamespace(used=self.used, free=5000 - self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[Any]:
        if self.processes is None:
            raise self.NVMLError
        return self.processes


def test_vram_by_process() -> None:
    nvml = FakeNvml()
    meter = meters.VramMeter(nvml, None)
    nvml.used = 9000
    for used in (300, 700, 500):
        nvml.processes = [
            SimpleNamespace(pid=1, usedGpuMemory=4000),
            SimpleNamespace(pid=7, usedGpuMemory=used),
        ]
        meter.sample(7)
    assert (meter.peak_bytes, meter.source) == (700, "nvml-process")


@pytest.mark.parametrize("processes", [None, [], [SimpleNamespace(pid=7, usedGpuMemory=None)]])
def test_vram_by_device_where_processes_are_hidden(processes: list[Any] | None) -> None:
    nvml = FakeNvml()
    nvml.processes = processes
    meter = meters.VramMeter(nvml, None)
    for used in (1200, 1900, 1500):
        nvml.used = used
        meter.sample(7)
    assert (meter.peak_bytes, meter.source) == (900, "nvml-device-delta")
    assert meter.free_bytes() == 3500


def test_vram_sources_are_not_mixed() -> None:
    nvml = FakeNvml()
    meter = meters.VramMeter(nvml, None)
    nvml.used = 9000
    meter.sample(7)
    nvml.processes = [SimpleNamespace(pid=7, usedGpuMemory=50)]
    meter.sample(7)
    nvml.processes = []
    meter.sample(7)
    assert (meter.peak_bytes, meter.source) == (50, "nvml-process")


def test_no_vram_on_the_cpu() -> None:
    with meters.vram_meter("cpu") as meter:
        assert meter is None
    assert meters.available_vram_bytes("cpu") is None


def test_no_vram_without_a_gpu() -> None:
    from clipperf import env

    if env.gpu_state()[0] is not None:
        pytest.skip("this machine has an NVIDIA GPU")
    with meters.vram_meter("cuda") as meter:
        assert meter is None


def test_busy_share_is_a_share() -> None:
    share = meters.busy_share(0.1)
    assert share is not None and 0 <= share <= 1
