"""OpenVINO's first run of a process, which two threads must not begin together.

Its bindings set themselves up in it. Two threads that do so at once wait for each other for good,
one with Python's own lock and one with theirs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from clipperf.system.processes import own

_locks: dict[int, threading.Lock] = {}
_done = False


@contextlib.contextmanager
def run() -> Iterator[None]:
    """Held while a tower runs: alone until one run of this process has come to its end."""
    global _done
    if _done:
        yield
        return
    with own(_locks, threading.Lock):
        yield
        _done = True
