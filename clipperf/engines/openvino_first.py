"""OpenVINO's first run of a process, which two threads must not begin together.

Its bindings set themselves up in it. Two threads that do so at once wait for each other for good,
one with Python's own lock and one with theirs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_done = threading.Event()


@contextlib.contextmanager
def run() -> Iterator[None]:
    """Held while a tower runs: alone until one run of this process has come to its end."""
    _watch_forks()
    if _done.is_set():
        yield
        return
    with _lock:
        yield
        _done.set()


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_renew)


def _renew() -> None:
    """In a forked process: a thread that only the parent has may hold either."""
    global _lock, _done
    done = _done.is_set()
    _lock, _done = threading.Lock(), threading.Event()
    if done:
        _done.set()
