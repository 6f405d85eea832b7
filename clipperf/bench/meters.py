"""Meters of memory: the kernel's high-water marks of RAM, and NVML for the GPU's.

A meter that does not exist on a platform returns None, and every figure comes with the name of
the meter that took it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipperf.processes import status_bytes

CLEAR_REFS = Path("/proc/self/clear_refs")
CGROUP = Path("/sys/fs/cgroup")

# --- RAM -----------------------------------------------------------------------------------


def rss_bytes() -> int | None:
    """Resident bytes of this process now."""
    if sys.platform == "linux" and (found := status_bytes("VmRSS")) is not None:
        return found
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.Process().memory_info().rss)


def reset_peak_rss() -> bool:
    """Lower the high-water mark to what is resident now; False where the kernel cannot.

    Linux resets VmHWM when "5" is written to /proc/self/clear_refs (proc(5)). No other platform
    has anything like it, and some containers forbid the write.
    """
    if sys.platform != "linux":
        return False
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def peak_rss_bytes() -> tuple[int | None, str | None]:
    """The high-water mark of resident bytes, and the name of the meter.

    "VmHWM" is exact to a few pages for each core and can be reset. "peak_wset" (Windows) and
    "ru_maxrss" (macOS and others) cover the whole life of the process.
    """
    if sys.platform == "linux" and (found := status_bytes("VmHWM")) is not None:
        return found, "VmHWM"
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset), "peak_wset"
    try:
        import resource
    except ImportError:
        return None, None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024), "ru_maxrss"


class PhasePeak:
    """The RAM peak of one phase after another, as far as the platform can tell them apart.

    Where the mark can be reset, `take` returns the peak since the last `start`. Where it cannot,
    a phase that did not raise the mark has an unknown peak: None, never the older phase's.
    """

    def __init__(self) -> None:
        self.source: str | None = None
        self._mark: int | None = None

    def start(self) -> None:
        """Begin a phase."""
        self._mark = None if reset_peak_rss() else peak_rss_bytes()[0]

    def take(self) -> int | None:
        """The peak since `start`, in bytes."""
        peak, name = peak_rss_bytes()
        resettable = self._mark is None
        self.source = name if resettable or name is None else f"{name} (not reset)"
        if peak is None or resettable or peak > (self._mark or 0):
            return peak
        return None


def available_ram_bytes() -> int | None:
    """RAM that new processes could take now without swapping, within the cgroup's limit."""
    try:
        import psutil
    except ImportError:
        return None
    free = int(psutil.virtual_memory().available)
    room = _cgroup_room_bytes()
    return free if room is None else min(free, room)


def _cgroup_room_bytes() -> int | None:
    """What is left below the memory limit of cgroup v2; its file cache counts as free."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    cache = next((int(x.split()[1]) for x in lines if x.startswith("inactive_file ")), 0)
    return max(0, int(limit) - used + cache)


# --- processor -----------------------------------------------------------------------------


def busy_share(interval_s: float = 0.3) -> float | None:
    """The share of all cores that is in use during the next `interval_s`, 0 to 1.

    Read while no worker runs, it is what other programs take from the measurement.
    """
    try:
        import psutil
    except ImportError:
        return None
    return float(psutil.cpu_percent(interval=interval_s)) / 100


# --- VRAM ----------------------------------------------------------------------------------


def gpu_index(device: str) -> int | None:
    """NVML's number of a device such as "cuda" or "cuda:1"; None for the CPU.

    CUDA numbers the devices of CUDA_VISIBLE_DEVICES, NVML all of them.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return None
    wanted = int(number) if number.isdigit() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    listed = [int(part) for part in visible.split(",") if part.strip().isdigit()]
    return listed[wanted] if wanted < len(listed) else wanted


class VramMeter:
    """Reads one GPU's memory from outside the process that uses it.

    The runtimes keep what they allocated at their peak, so a reading between two runs sees the
    peak of the runs before it. `source` is "nvml-process" where NVML reports the worker by its
    process id, else "nvml-device-delta": the device's use over what it was before the worker
    started, which other users of the GPU disturb (containers often hide process ids).
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._baseline = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        self.peak_bytes: int | None = None
        self.source: str | None = None

    def sample(self, pid: int) -> None:
        """Take a reading while the worker `pid` waits; `peak_bytes` keeps the largest.

        Readings of the two sources are never mixed: one by process id replaces any by device.
        """
        own = self._process_bytes(pid)
        if own is not None:
            if self.source != "nvml-process":
                self.peak_bytes, self.source = None, "nvml-process"
            self.peak_bytes = max(own, self.peak_bytes or 0)
        elif self.source != "nvml-process":
            try:
                used = int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
            except self._nvml.NVMLError:
                return
            self.source = "nvml-device-delta"
            self.peak_bytes = max(used - self._baseline, self.peak_bytes or 0)

    def free_bytes(self) -> int:
        """What is free on the device now."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).free)

    def _process_bytes(self, pid: int) -> int | None:
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        return next((p.usedGpuMemory for p in running if p.pid == pid), None)


@contextlib.contextmanager
def vram_meter(device: str) -> Iterator[VramMeter | None]:
    """A meter for a cell's device, zeroed now; None on the CPU and where NVML does not work."""
    index = gpu_index(device)
    if index is None:
        yield None
        return
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        try:
            meter = VramMeter(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index))
        except pynvml.NVMLError:
            meter = None
        yield meter
    finally:
        pynvml.nvmlShutdown()


def available_vram_bytes(device: str) -> int | None:
    """Free memory of a cell's GPU; None on the CPU and where NVML does not work."""
    with vram_meter(device) as meter:
        return None if meter is None else meter.free_bytes()
