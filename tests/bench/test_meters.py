import os
import sys
from pathlib import Path

import pytest

from clipperf.bench import meters
from clipperf.engines.simulated import touched
from clipperf.system import processes

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
    monkeypatch.setattr(processes, "CLEAR_REFS", tmp_path / "missing" / "none")
    peak, source = meters.peak_rss_bytes()
    assert source == "ru_maxrss"
    assert peak is not None and peak > MIB
    assert not processes.reset_peak_rss()
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


def test_busy_share_is_a_share() -> None:
    share = meters.busy_share(0.1)
    assert share is not None and 0 <= share <= 1
