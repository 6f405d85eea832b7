"""Inputs for which a tower gives values that are not finite, found among those beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from clipperf.errors import NotFiniteError

NOT_FINITE = "the tower gives values that are not finite for it"

Run = Callable[[Sequence[int]], np.ndarray]
"""Embeds inputs by their places, together; raises NotFiniteError."""


def apart(
    run: Run, count: int, sound: Callable[[], object]
) -> tuple[np.ndarray | None, frozenset[int]]:
    """Embed inputs together: the rows of those that have some, None without, and who has none.

    Half precision overflows for a few inputs, and in some precisions one of them spoils the batch.
    Those are looked for in halves, and what is left is run as if they had never been in it.
    `sound` embeds an input that cannot be at fault; it is asked where nothing is left.

    Raises:
        NotFiniteError: the tower is at fault.
    """
    everyone = range(count)
    try:
        return run(everyone), frozenset()
    except NotFiniteError:
        bad = frozenset(_among(run, everyone))
    if len(bad) == count:
        sound()
        return None, bad
    return run([place for place in everyone if place not in bad]), bad


def _among(run: Run, failed: Sequence[int]) -> list[int]:
    """Those at fault of inputs that failed together; none where each half of them runs."""
    if len(failed) == 1:
        return list(failed)
    bad: list[int] = []
    for half in (failed[: len(failed) // 2], failed[len(failed) // 2 :]):
        try:
            run(half)
        except NotFiniteError:
            bad += _among(run, half)
    return bad
