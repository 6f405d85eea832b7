"""Commands that work with the store hold it, together; `gc` removes what loads while none does.

What is held is the kernel's lock of the store's folder, so nothing is written, and a command that
is killed holds nothing. What a program has opened with `clipperf.load` needs no lock: its files
stay readable when their names are gone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Literal

from clipperf.errors import UsageError
from clipperf.system import temporaries
from clipperf.system.store import home
from clipperf.system.terminal import say

if sys.platform != "win32":
    import fcntl

Held = Literal["alone", "with others", "unknown"]


@contextlib.contextmanager
def using() -> Iterator[None]:
    """Hold the store with other commands; waits for a `gc` that is removing things.

    What killed processes have left among the machine's temporary files goes first.
    """
    temporaries.sweep_scratch()
    descriptor = _opened()
    try:
        if descriptor is not None:
            _share(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def alone() -> Iterator[Held]:
    """Hold the store alone, if no command does; "unknown" where the file system has no locks."""
    descriptor = _opened()
    try:
        yield "unknown" if descriptor is None else _take(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened() -> int | None:
    if sys.platform == "win32":
        return None
    try:
        return os.open(home(), os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, UsageError):  # no store yet, or none that can be read
        return None


def _share(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for clipperf store gc, which is removing things from {home()}")
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def _take(descriptor: int) -> Held:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "with others"
    except OSError:
        return "unknown"
    return "alone"
