"""The highest rate that holds, by halving: which to try next. Pure: nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Generator

FIRST_SHARE = 0.7
"""Of an engine's own rate: queues grow without bound towards all of it."""
LEAST_SHARE = 1 / 256
MORE = 1.5
"""What is tried over a rate that held, until one does not."""


def peak_rate(capacity_per_s: float, rel_width: float) -> Generator[float, bool, None]:
    """Rates to try; each is sent back as whether it held. It ends once the bounds are close.

    `capacity_per_s` is what the engine does while nobody waits, which is where the search begins.
    Halving is geometric, and ends where a rate that did not hold is at most `rel_width` above the
    highest that did, or where `LEAST_SHARE` of the capacity did not hold.
    """
    held: float | None = None
    too_much: float | None = None
    rate = FIRST_SHARE * capacity_per_s
    while True:
        if (yield rate):
            held = rate
        else:
            too_much = rate
        if too_much is None:
            rate = rate * MORE
        elif held is None:
            rate = too_much / 2
            if rate < LEAST_SHARE * capacity_per_s:
                return
        elif too_much <= held * (1 + rel_width):
            return
        else:
            rate = math.sqrt(held * too_much)
