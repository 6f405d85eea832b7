"""What a cell may take: a guard for its process, which ends where it takes more.

What it takes of its GPU's memory NVML says process by process, where it does. Elsewhere it is what
the device has less of, which is a process's own only while no other one of the group is open: cells
that take turns are held to the limit in the memory pass, which comes before.

Nobody looks while a cell's times are taken but once a second, at the one process that runs; its
RAM is watched closely in the memory pass, which comes before and keeps no times.
"""

from __future__ import annotations

from clipperf import units
from clipperf.bench import cost, gpu_meters
from clipperf.bench.cost import UNLIMITED, Limits
from clipperf.system.family import family_rss_bytes

CLOSELY_S = 0.05
"""Between two looks where no times are taken."""

SELDOM_S = 1.0
"""Where they are; a look takes some milliseconds."""

VRAM_S = 0.5
"""Between two questions to NVML, which takes milliseconds to open."""


class CellGuard:
    """Looks after one process of a cell; see `system.child.Guard`.

    `alone` is whether nothing else that is open takes of its GPU's memory, which then is what
    became less of the free since the guard was made, where NVML does not tell processes apart.
    """

    def __init__(
        self, limits: Limits, device: str, every_s: float = SELDOM_S, alone: bool = True
    ) -> None:
        self.every_s = every_s
        self._limits = limits
        self._device = device
        self._turn_s = cost.stopwatch()
        self._before_s = self._spent_s = 0.0
        self._asked_s: float | None = None
        watched = limits.vram_bytes is not None and alone
        self._free_bytes = gpu_meters.available_vram_bytes(device) if watched else None

    def begin(self) -> None:
        """See `Guard`."""
        self._before_s = self._spent_s
        self._turn_s = cost.stopwatch()

    def look(self, pid: int) -> str | None:
        """See `Guard`."""
        self._spent_s = self._before_s + self._turn_s()
        most = self._limits
        if most.seconds is not None and self._spent_s > most.seconds:
            return f"over the limit of {units.seconds(most.seconds)} for a pass, so it was ended"
        if most.ram_bytes is not None:
            found = family_rss_bytes(pid)
            if found is not None and found > most.ram_bytes:
                return _over("RAM", most.ram_bytes, found)
        if most.vram_bytes is not None and (taken := self._vram_bytes(pid)) is not None:
            return vram_over(most, taken)
        return None

    def _vram_bytes(self, pid: int) -> int | None:
        """What it holds of its GPU's memory; None where that is not known now."""
        if self._asked_s is not None and self._spent_s - self._asked_s < VRAM_S:
            return None
        self._asked_s = self._spent_s
        own = gpu_meters.family_vram_bytes(self._device, pid)
        if own is not None or self._free_bytes is None:
            return own
        free = gpu_meters.available_vram_bytes(self._device)
        return None if free is None else self._free_bytes - free


def vram_over(limits: Limits, taken: int | None) -> str | None:
    """Why a cell that took so much of its GPU's memory must end; None where it may go on."""
    most = limits.vram_bytes
    return _over("VRAM", most, taken) if most is not None and (taken or 0) > most else None


def _over(what: str, most: int, found: int | None) -> str:
    return f"over the limit of {units.size(most)} {what}: {units.size(found)}, so it was ended"


def guard_of(
    limits: Limits, device: str, every_s: float = SELDOM_S, alone: bool = True
) -> CellGuard | None:
    """A guard for one process of a cell on a device; None where nothing is limited."""
    return None if limits == UNLIMITED else CellGuard(limits, device, every_s, alone)
