"""Asking a server again that has too much to do, a few times and for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

from clipperf.errors import RefusedError

TRIES = 8
PAUSE_S, MOST_PAUSE_S = 0.1, 10.0
"""Before the second try, twice as long before each one after it; what a server may ask for."""

PATIENCE_S = 20.0
"""Of all pauses together."""

T = TypeVar("T")


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns; asked again a few times, after pauses, while a server refuses.

    For what comes before a test: in one, a refusal is what is measured.

    Raises:
        RefusedError: it still does.
    """
    pause_s, spent_s, number = PAUSE_S, 0.0, 1
    while True:
        try:
            return ask()
        except RefusedError as exc:
            wanted_s = min(MOST_PAUSE_S, max(pause_s, exc.after_s or 0.0))
            if number == TRIES or spent_s + wanted_s > PATIENCE_S:
                raise RefusedError(
                    f"{exc}; asked {number} times in {spent_s:.1f} s: it has too much to do, "
                    f"measure it when it has less"
                ) from exc
        time.sleep(wanted_s)
        pause_s, spent_s, number = 2 * pause_s, spent_s + wanted_s, number + 1


def refused(said: str, headers: Mapping[str, str]) -> RefusedError:
    """A refusal with what its header ``retry-after`` says: seconds, or a date (RFC 9110, 10.2.3).

    None where it says neither.
    """
    text = headers.get("retry-after", "")
    try:
        after_s = float(text)
    except ValueError:
        try:
            after_s = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return RefusedError(said)
    return RefusedError(said, max(0.0, after_s) if math.isfinite(after_s) else None)
