"""A file in memory whose RAM can be given back at any moment: pages are read again when used."""

from __future__ import annotations

import contextlib
import mmap
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

INTERVAL_S = 0.01
"""A core reads and lays out some 10 MB meanwhile."""


class MappedFile:
    """A file that is not empty, mapped for reading; unmapped once nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.values: np.ndarray = np.frombuffer(self._map, np.uint8)

    def let_go(self) -> None:
        """Give back its RAM; the pages stay in the system's cache of files. On Linux alone."""
        if sys.platform == "linux":
            # Nothing is lost: the mapping cannot be written to, and it is this object's own.
            self._map.madvise(mmap.MADV_DONTNEED)

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Let go of what is read meanwhile, again and again: for a reader that copies it all."""
        done = threading.Event()

        def keep_on() -> None:
            while not done.wait(INTERVAL_S):
                self.let_go()

        thread = threading.Thread(target=keep_on, name="clipperf-mapped", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.let_go()
