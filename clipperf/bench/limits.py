"""What a cell may take: a guard for its process, which ends where it takes more.

What it takes of its GPU's memory NVML says process by process, where it does. Elsewhere it is what
the device has less of, which is a process's own only while no other one of the group is open: cells
that take turns are held to the limit in the memory pass, which comes before.

Nobody looks while a cell's times are taken but once a second, at the one process that runs; its
RAM is watched closely in the memory pass, which comes before and keeps no times.
"""

from __future__ import annotations

from collections.abc import Sequence

from clipperf import units
from clipperf.bench import cost, gpu_meters, meters
from clipperf.bench.cost import UNLIMITED, Limits
from clipperf.system.family import family_rss_bytes

CLOSELY_S = 0.05
"""Between two looks where no times are taken."""

SELDOM_S = 1.0
"""Where they are; a look takes some milliseconds."""

VRAM_S = 0.5
"""Between two questions to NVML, which takes milliseconds to open."""


class CellGuard:
    """Looks after the processes of a cell; see `system.child.Guard`.

    Of several, `pids`, what they take together counts, and the seconds in which one of them is
    waited for.

    `alone` is whether nothing else that is open takes of its GPU's memory, which then is what
    became less of the free since the guard was made, where NVML does not tell processes apart.
    """

    def __init__(
        self, limits: Limits, device: str, every_s: float = SELDOM_S, alone: bool = True
    ) -> None:
        self.every_s = every_s
        self.pids: tuple[int, ...] = ()
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
            found = rss_together(self.pids or (pid,), most.ram_bytes)
            if found is not None and found > most.ram_bytes:
                return _over("RAM", most.ram_bytes, found)
        if most.vram_bytes is not None:
            return vram_over(most, self._vram_bytes(self.pids or (pid,)))
        return None

    def _vram_bytes(self, pids: Sequence[int]) -> int | None:
        """What they hold of their GPU's memory; None where that is not known now."""
        if self._asked_s is not None and self._spent_s - self._asked_s < VRAM_S:
            return None
        self._asked_s = self._spent_s
        held = [gpu_meters.family_vram_bytes(self._device, pid) for pid in pids]
        known = [each for each in held if each is not None]
        own = sum(known) if len(known) == len(held) else None
        if own is not None or self._free_bytes is None:
            return own
        free = gpu_meters.available_vram_bytes(self._device)
        return None if free is None else self._free_bytes - free


def rss_together(pids: Sequence[int], limit_bytes: int) -> int | None:
    """Resident bytes of processes with all that they have started; None where all are gone.

    Pages that they share count once, which is asked of the kernel only where it decides on the
    limit: by what each has of them, see `crew.merged`.
    """
    held = [found for pid in pids if (found := family_rss_bytes(pid)) is not None]
    total = sum(held)
    if len(held) > 1 and total > limit_bytes:
        shared = [meters.shared_bytes(pid) or 0 for pid in pids]
        total -= sum(shared) - max(shared)
    return total if held else None


def vram_over(limits: Limits, taken: int | None) -> str | None:
    """Why a cell that took so much of its GPU's memory must end; None where it may go on."""
    most = limits.vram_bytes
    return _over("VRAM", most, taken) if most is not None and (taken or 0) > most else None


def _over(what: str, most: int, found: int | None) -> str:
    return f"over the limit of {units.size(most)} {what}: {units.size(found)}, so it was ended"


def guard_of(
    limits: Limits, device: str, every_s: float = SELDOM_S, alone: bool = True
) -> CellGuard | None:
    """A guard for the processes of a cell on a device; None where nothing is limited."""
    return None if limits == UNLIMITED else CellGuard(limits, device, every_s, alone)
