"""What a process knows of itself from the kernel; for the children that clipperf starts."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def status_bytes(field: str) -> int | None:
    """A memory figure of this process from Linux's /proc/self/status, such as VmHWM, in bytes."""
    try:
        text = STATUS.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, even in the middle of a run.

    Elsewhere the end of standard input does it, once the step under way is over.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
