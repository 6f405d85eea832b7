"""Models that were opened before a fork: their runtimes' threads do not exist in the child.

Towers of every runtime are opened again there. OpenVINO's hang otherwise. ONNX Runtime's answer,
on one thread, with the parent's weights shared, as long as nothing in the parent was in a run at
the moment of the fork; else the child may wait for good for what was held then. Of 100 forks of a
parent that was embedding, 6 hung; opened again none did, for 0.5 s and 80 MiB of RAM with the
bundled sample (`benchmarks/forks.py`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Iterable
from typing import Any, Protocol


class Forkable(Protocol):
    """What is told in a child process that it was opened in the parent."""

    def forked(self) -> None:
        """Called in the child, before the fork returns there."""
        ...


_OPENED: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(model: Forkable) -> None:
    """Have `model.forked()` called in every child that is forked while the model is there."""
    _register()
    _OPENED.add(model)


@functools.cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_tell)


def _tell() -> None:
    for model in list(_OPENED):
        model.forked()


def leave(engines: Iterable[Any]) -> None:
    """Never free these: a runtime that is closed waits for its threads, which the parent has."""
    for engine in engines:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
