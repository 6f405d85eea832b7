"""Meters of RAM, the kernel's high-water marks, and of how busy the cores are.

A meter that does not exist on a platform returns None, and every figure comes with the name of
the meter that took it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clipperf.system.processes import reset_peak_rss, status_bytes

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


def shared_bytes(pid: int | None = None) -> int | None:
    """Resident bytes of a process, this one by default, that another one has, too.

    None where nobody tells.
    """
    try:
        lines = Path(f"/proc/{pid or 'self'}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    kinds = [line.split() for line in lines if line.startswith(("Shared_Clean:", "Shared_Dirty:"))]
    return sum(int(kind[1]) for kind in kinds) * 1024 if len(kinds) == 2 else None


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
