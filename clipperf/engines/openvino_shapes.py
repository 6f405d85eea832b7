"""Which shapes OpenVINO meets and keeps ready, so that a process's memory stays flat."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from clipperf.engines.contract import SHORTEST_TOKENS
from clipperf.system.processes import own

SHAPES = 128
"""So many shapes of each kind of operation are kept ready, the latest. OpenVINO's own 5,000 are
hundreds of MB where batches and lengths of texts are mixed, more than most towers themselves."""

LONGEST_TOKENS = 512
"""Texts that are longer come in their own lengths."""

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY")
"""What oneDNN reads when it makes its first kernel; the first name is the one that it prefers."""

_first_compiled = threading.Event()
_locks: dict[int, threading.Lock] = {}


def near_lengths() -> tuple[int, ...]:
    """The lengths that texts are padded to, ascending: to none is added more than a twentieth.

    Each shape costs time and 0.2 MiB, of a small tower as of a large one. Texts of up to 19 tokens,
    most of those that CLIP is given, keep their length; up to 77 there are 39 lengths, not 75.
    """
    found = [SHORTEST_TOKENS]
    while found[-1] < LONGEST_TOKENS:
        following = found[-1] + 1
        found.append(following + following // 20)
    return tuple(found)


@contextmanager
def one_cache() -> Iterator[None]:
    """While OpenVINO compiles the first tower: let oneDNN below it keep no kernels of its own.

    It would keep 1,024 beside those of `SHAPES`, for all towers together, until the process ends.
    The variable is taken back: PyTorch has a oneDNN, too, and so may child processes. Where it is
    set already, it stays as it is.
    """
    with own(_locks, threading.Lock):
        if not _first_compiled.is_set() and not any(name in os.environ for name in NAMES):
            os.environ[NAMES[0]] = "0"
            try:
                yield
                _first_compiled.set()
            finally:
                del os.environ[NAMES[0]]
            return
    yield
