"""A process with all that it has started: what it takes, how it ends, who looks after it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from clipperf.system.processes import status_bytes


class Guard(Protocol):
    """Who looks after what a child takes, while and when it is waited for."""

    @property
    def every_s(self) -> float:
        """How long the parent waits at most before the next look."""
        ...

    def begin(self) -> None:
        """The child is being waited for from now on."""
        ...

    def look(self, pid: int) -> str | None:
        """Why the child must end; None where it may go on."""
        ...


def family_rss_bytes(pid: int) -> int | None:
    """Resident bytes of a process and all that it has started; None where it is gone.

    Of the process itself it is the high-water mark, where the kernel keeps one.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        most = status_bytes("VmHWM", Path(f"/proc/{pid}/status")) or 0
        total = max(int(process.memory_info().rss), most)
        children = process.children(recursive=True)
    except psutil.Error:
        return None
    for child in children:
        with contextlib.suppress(psutil.Error):
            total += int(child.memory_info().rss)
    return total


def family_pids(pid: int) -> list[int]:
    """A process and all that it has started; itself alone where it is gone."""
    import psutil

    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return [pid]


def end_family(pid: int) -> None:
    """Kill a process and all that it has started, those in process groups of their own, too."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
