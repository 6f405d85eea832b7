"""Figures that are no means, with intervals by resampling; see `outcome` for those that are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipperf.evals.outcome import Estimate, Interval, unit_of_classes

RESAMPLES = 500
"""Draws of a figure."""

Reach = Callable[[float], Interval]
"""How far down and up a figure may lie by what goes unseen, were there so many times the samples.

Both are from 0 on.
"""


@dataclass(frozen=True)
class ResampledGap:
    """A difference, its interval by resampling, and the least that this must reach."""

    difference: float
    low: float
    high: float
    least: Reach

    def interval(self, times: float = 1.0) -> Interval:
        """See `Gap`: as wide as by resampling, but never less than what may go unseen."""
        (down, up), scale = self.least(times), math.sqrt(times)
        below = max((self.difference - self.low) / scale, down)
        above = max((self.high - self.difference) / scale, up)
        return self.difference - below, self.difference + above


def unseen(n: float) -> float:
    """The largest share of all samples that n of them may miss, but for 2.5 %: 7.1 % for 50."""
    return 1 - 0.025 ** (1 / n)


def missed_by(n: float) -> Reach:
    """The share of all samples that so many of them may miss, both ways."""
    return lambda times: (unseen(n * times), unseen(n * times))


def missed_over(counts: np.ndarray) -> Reach:
    """What is missed of a mean over classes of so many samples each; of none, all.

    Few samples of one class say little of it, however many there are of the others.
    """
    if not counts.any():
        return lambda times: (1.0, 1.0)
    return missed_by(1 / unit_of_classes(counts))


Figure = Callable[[np.ndarray, np.ndarray], float]


def resampled(
    value: Figure,
    drawn: Figure | None = None,
    least: Callable[[np.ndarray, np.ndarray], Reach] | None = None,
) -> Estimate:
    """Any figure from 0 to 1, with bootstrap intervals over the samples.

    Its own interval is normal on the scale of logits, with the spread of the draws: their quantiles
    miss a figure that draws shift, as where they leave out classes of few samples. A gap's is of
    quantiles: what shifts both models alike is gone in it. `drawn` stands for the figure in a draw
    where that itself takes too long. Draws that have no value (not a number) are left out. Where
    samples agree there is nothing to resample: no interval is narrower than what so many samples
    may miss, which `least(values, groups)` says where it is not a share of all.
    """
    of = drawn or value
    reach = least or (lambda values, groups: missed_by(len(values)))

    def draws(n: int, figure: Callable[[np.ndarray], float]) -> np.ndarray:
        rng = np.random.default_rng(0)
        found = np.array([figure(rng.integers(0, n, n)) for _ in range(RESAMPLES)])
        known: np.ndarray = found[np.isfinite(found)]
        return known

    def interval(values: np.ndarray, groups: np.ndarray) -> Interval:
        n, at = len(values), value(values, groups)
        known = draws(n, lambda index: of(values[index], groups[index]))
        if not math.isfinite(at) or not len(known):
            return math.nan, math.nan
        wide = 1.96 * float(np.std(_logit(known, n)))
        low, high = (float(_share(_logit(at, n) + side * wide, n)) for side in (-1, 1))
        low, high = ResampledGap(at, low, high, reach(values, groups)).interval()
        return float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))

    def gap(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray) -> ResampledGap:
        def figure(index: np.ndarray) -> float:
            return of(ours[index], groups[index]) - of(theirs[index], groups[index])

        n, difference = len(ours), value(ours, groups) - value(theirs, groups)
        known = draws(n, figure)
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
        return ResampledGap(difference, float(low), float(high), reach(ours, groups))

    return Estimate(value, interval, gap)


def _logit(share: np.ndarray | float, n: int) -> np.ndarray:
    """The logit of a share of n, with half a sample more on either side."""
    p = (np.asarray(share) * n + 0.5) / (n + 1)
    found: np.ndarray = np.log(p / (1 - p))
    return found


def _share(logit: np.ndarray, n: int) -> np.ndarray:
    """What has this logit."""
    return ((n + 1) / (1 + np.exp(-logit)) - 0.5) / n
