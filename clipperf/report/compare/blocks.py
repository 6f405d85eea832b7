"""The interval of a ratio of latencies, by drawing whole blocks anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipperf import stats
from clipperf.report.table import Interval

RESAMPLES = 4000
"""Draws of a ratio."""

FEWEST = 6
"""Blocks below which nothing is said of how much they differ."""

ELEMENTS = 2_000_000
"""Numbers of one step: draws of long runs take their turn."""


@dataclass(frozen=True)
class Calls:
    """Seconds of single calls, and the block that each belongs to."""

    run_s: Sequence[float]
    blocks: Sequence[int]

    @property
    def known(self) -> bool:
        """Whether each call has a block."""
        return 0 < len(self.run_s) == len(self.blocks)


def tail(blocks: int) -> float:
    """The share of draws to leave out at either end for a 95 % interval of so few blocks.

    Draws of n blocks spread less than their means do, by (n - 1) / n, and less than Student's t
    asks for: quantiles are taken as far out as makes up for both (the expanded percentile interval
    of Hesterberg 2015, "What teachers should know about the bootstrap", section 4.3).
    """
    wide = math.sqrt(blocks / (blocks - 1)) * stats.t_quantile(blocks - 1)
    return 0.5 * math.erfc(wide / math.sqrt(2))


def ratio_interval(a: Calls, b: Calls, q: float, paired: bool = False) -> Interval | None:
    """95 % interval of the q-quantile of b's calls over that of a's.

    Calls of one block resemble each other, so whole blocks are drawn; of a comparison in turns
    (`paired`) the same ones of both. It holds what these runs show of themselves, not what a
    machine drifts between two. None below FEWEST blocks.
    """
    if not (a.known and b.known):
        return None
    own_a, own_b = np.unique(a.blocks), np.unique(b.blocks)
    if paired:
        own_a = own_b = np.intersect1d(own_a, own_b)
    fewest = min(len(own_a), len(own_b))
    if fewest < FEWEST:
        return None
    rng = np.random.default_rng(0)
    drawn_a = _counts(rng, len(own_a))
    drawn_b = drawn_a if paired else _counts(rng, len(own_b))
    ratios = quantiles(b, own_b, drawn_b, q) / quantiles(a, own_a, drawn_a, q)
    out = tail(fewest)
    low, high = np.quantile(ratios, [out, 1 - out])
    return float(low), float(high)


def _counts(rng: np.random.Generator, blocks: int) -> np.ndarray:
    """How often each block is drawn, int [RESAMPLES, blocks]."""
    drawn: np.ndarray = rng.multinomial(blocks, [1 / blocks] * blocks, size=RESAMPLES)
    return drawn


def quantiles(calls: Calls, own: np.ndarray, counts: np.ndarray, q: float) -> np.ndarray:
    """The q-quantile of each draw: what numpy's is of the calls of all drawn blocks.

    `own` are the blocks that are drawn, `counts` int [draws, blocks] how often.
    """
    run_s, blocks = np.asarray(calls.run_s, np.float64), np.asarray(calls.blocks)
    kept = np.isin(blocks, own)
    run_s, place = run_s[kept], np.searchsorted(own, blocks[kept])
    order = np.argsort(run_s)
    run_s, place = run_s[order], place[order]
    found = []
    step = max(1, ELEMENTS // len(run_s))
    for start in range(0, len(counts), step):
        reached = np.cumsum(counts[start : start + step, place], axis=1)
        at = (reached[:, -1] - 1) * q
        below = np.floor(at).astype(np.int64)
        above = np.minimum(below + 1, reached[:, -1] - 1)
        low, high = (run_s[(reached <= k[:, None]).sum(axis=1)] for k in (below, above))
        found.append(low + (high - low) * (at - below))
    whole: np.ndarray = np.concatenate(found)
    return whole
