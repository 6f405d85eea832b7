"""What a process knows of itself from the kernel, and what it asks of it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, TypeVar

T = TypeVar("T")

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
OOM_SCORE = Path("/proc/self/oom_score_adj")


def status_bytes(field: str, status: Path | None = None) -> int | None:
    """A memory figure of this process from Linux's /proc/self/status, such as VmHWM, in bytes.

    `status` is that file of another process.
    """
    try:
        text = (status or STATUS).read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


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


def protocol_streams() -> tuple[TextIO, TextIO]:
    """Take over standard input and output; what libraries print goes to standard error instead.

    Returns the two as text streams of their own, for a protocol with the parent.
    """
    commands = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, answers


def trim_heap() -> None:
    """Give free memory in the C library's heap back to the system, where it is glibc's."""
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def page_out(address: int, size: int) -> None:
    """Let go of the RAM of mapped memory that was read and is not read again soon.

    Its contents stay: pages of a file are read from it again, others would go to swap space, where
    there is some. Older kernels, and systems other than Linux, keep it all.
    """
    if sys.platform != "linux":
        return
    import ctypes
    import mmap

    madv_pageout = 21  # Linux 5.4 and newer
    begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        pages = ctypes.c_void_p(begin), ctypes.c_size_t(length)
        ctypes.CDLL(None).madvise(*pages, madv_pageout)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, even in the middle of a run.

    Elsewhere the end of standard input does it, once the step under way is over.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def prefer_as_victim() -> None:
    """Tell Linux to end this process first when RAM runs out, and to leave no core file."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(OSError):
            OOM_SCORE.write_text("1000")
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def own(things: dict[int, T], make: Callable[[], T]) -> T:
    """This process's own of some things, such as a lock, made where it has none yet.

    After a fork the parent's are of no use: what holds a lock, or runs, is a thread of the parent
    alone. It takes one step of the interpreter, so no fork leaves it half done.
    """
    process = os.getpid()
    found = things.get(process)
    return things.setdefault(process, make()) if found is None else found
