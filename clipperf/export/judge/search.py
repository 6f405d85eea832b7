"""Which layers of a tower must keep their precision so that the others may be quantised."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_KEPT = 0.5
"""A tower of which more than this share of layers stays as it is is no quantised tower."""


@dataclass(frozen=True)
class Found:
    """The layers to keep, in the order in which they were found, and if that is enough.

    Where it is not, because more than `MOST_KEPT` would have to be kept, `needed` are those that
    would; none where even all of them are not enough.
    """

    kept: tuple[str, ...]
    holds: bool
    trials: int
    needed: tuple[str, ...] = ()


def search(
    layers: Sequence[str],
    drift: Callable[[Sequence[str]], float],
    holds: Callable[[Sequence[str]], bool],
    most: float = MOST_KEPT,
) -> Found:
    """Keep the layers that hurt most, one by one, until what is left holds.

    Once as many are kept as may be, groups of what is left are kept whole, the worst first, only
    to tell what it would take. With another share than `MOST_KEPT`, `most`, it ends there.

    `drift(kept)` is how far the embeddings move with all layers but `kept` quantised, `holds` if
    that is acceptable, which may be much dearer to tell. A group of neighbouring layers is
    judged by the drift that it causes alone, and the worst group is cut in half until a single
    layer is left: a fragile one among n costs about 2 log2 n trials. Nothing is kept, and no
    drift is asked for, where quantising everything holds.
    """
    trials = 1
    if holds(()):
        return Found((), True, trials)

    def alone(group: Sequence[str]) -> float:
        return drift([name for name in layers if name not in group])

    kept: list[str] = []
    # Largest drift first; the start breaks ties, so that the order is always the same.
    queue = [(0.0, 0, tuple(layers))] if layers else []
    while queue and len(kept) + 1 <= most * len(layers):
        _, start, group = heapq.heappop(queue)
        if len(group) > 1:
            middle = len(group) // 2
            for at, half in ((start, group[:middle]), (start + middle, group[middle:])):
                heapq.heappush(queue, (-alone(half), at, half))
                trials += 1
            continue
        kept.append(group[0])
        trials += 1
        if holds(kept):
            return Found(tuple(kept), True, trials)
    needed = list(kept)
    while queue and most == MOST_KEPT:
        needed += heapq.heappop(queue)[-1]
        trials += 1
        if holds(needed):
            return Found(tuple(kept), False, trials, tuple(needed))
    return Found(tuple(kept), False, trials)
