"""What is tried once more, as what ended it came from outside, and what only on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from clipperf.errors import (
    ChildError,
    ClipperfError,
    ExportError,
    LostError,
    MissingDependencyError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from clipperf.nouns.result import Ended

Made = TypeVar("Made")

HOW = "give the command again to have it tried again"


def worst(ended: Sequence[Ended | None]) -> Ended | None:
    """What the end of several processes means for all of them together."""
    return "killed" if "killed" in ended else "limit" if "limit" in ended else None


def tried_twice(make: Callable[[], Made]) -> Made:
    """What is made; made once more where a process was killed while it was.

    Raises:
        ClipperfError: whatever `make` raises.
    """
    try:
        return make()
    except ClipperfError as exc:
        if ended_of(exc) != "killed":
            raise
    return make()


def kept(exc: ClipperfError) -> ClipperfError:
    """An error of what is not tried again in this run, in words that say how it is.

    A refusal stays as it is: it costs nothing, and the next command refuses, too. So does what
    wants a package or another machine first, and what is wrong with the disk, which is of all.
    """
    if isinstance(exc, UsageError | MissingDependencyError | UnsupportedError | StorageError):
        return exc
    said = ExportError(f"{exc}; {HOW}")
    said.__cause__ = exc
    return said


def ended_of(exc: BaseException | None) -> Ended | None:
    """Who ended the process that an error is of, if it is of one; else what caused the error.

    A machine that was lost took its processes along.
    """
    while exc is not None and not isinstance(exc, ChildError | LostError):
        exc = exc.__cause__
    if isinstance(exc, LostError):
        return "killed"
    return None if exc is None else exc.ended
