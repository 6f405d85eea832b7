"""What is tried once more, as what ended it came from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from clipperf.errors import ChildError, ClipperfError, LostError
from clipperf.nouns.result import Ended

Made = TypeVar("Made")


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


def ended_of(exc: BaseException | None) -> Ended | None:
    """Who ended the process that an error is of, if it is of one; else what caused the error.

    A machine that was lost took its processes along.
    """
    while exc is not None and not isinstance(exc, ChildError | LostError):
        exc = exc.__cause__
    if isinstance(exc, LostError):
        return "killed"
    return None if exc is None else exc.ended
