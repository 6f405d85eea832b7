"""Memory that a TensorRT engine keeps between runs: device memory, pinned host memory beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipperf.engines.tensorrt.cuda import Cuda
from clipperf.errors import EngineError


class Buffer:
    """Device memory that grows on demand, with as much pinned host memory beside it if asked."""

    def __init__(self, cuda: Cuda, *, pinned: bool) -> None:
        self._cuda = cuda
        self._pinned = pinned
        self._device: Any = None
        self.host = np.empty(0, np.uint8)
        self.size = 0

    @property
    def address(self) -> int:
        return 0 if self._device is None else int(self._device)

    def grow(self, size: int) -> None:
        """Make room for `size` bytes; the old content is lost."""
        if size > self.size:
            self.free()
            self._device = self._cuda.device_alloc(size)
            if self._pinned:
                self.host = self._cuda.host_alloc(size)
            self.size = size

    def free(self) -> None:
        """Free both; no work that uses them may be on its way."""
        device, host, self._device, self.size = self._device, self.host, None, 0
        self.host = np.empty(0, np.uint8)
        with contextlib.ExitStack() as both:  # the second, too, where the first fails
            if host.size:
                both.callback(self._cuda.host_free, host)
            if device is not None:
                both.callback(self._cuda.device_free, device)


def grow_all(needed: Sequence[tuple[Buffer, int]]) -> None:
    """Make room in several buffers; the content of all may be lost.

    Raises:
        EngineError: there is too little memory for just these sizes. A later call with smaller
            ones works.
    """
    try:
        for buffer, size in needed:
            buffer.grow(size)
    except EngineError:
        # One may hold more, from another shape, than it needs now, and the next lack just that.
        for buffer, _ in needed:
            buffer.free()
        for buffer, size in needed:
            buffer.grow(size)
