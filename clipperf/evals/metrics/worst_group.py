"""Top-k accuracy of the worst part of the data: a region of FMoW, an income of Dollar Street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipperf import stats
from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import (
    ALONE,
    Estimate,
    Interval,
    MeanGap,
    Outcome,
    ResampledGap,
    resampled,
)
from clipperf.evals.ranks import hits_at

KS = (1, 5)


def worst(hits: np.ndarray, parts: np.ndarray) -> float:
    """The least mean over the samples of one part; parts without a sample are left out."""
    counts = np.bincount(parts)
    sums = np.bincount(parts, weights=hits)
    return float((sums[counts > 0] / counts[counts > 0]).min())


@dataclass(frozen=True)
class WorstGap:
    """A difference of worst parts: as resampled, and at least as wide as in the parts themselves.

    `parts` are the differences in the part that is worst for ours and in the one for theirs.
    """

    resampled: ResampledGap
    parts: tuple[MeanGap, ...]

    def interval(self, times: float = 1.0) -> Interval:
        """See `Gap`."""
        low, high = self.resampled.interval(times)
        for part in self.parts:
            own, at = part.interval(times), part.gained - part.lost
            low = min(low, self.resampled.difference - (at - own[0]))
            high = max(high, self.resampled.difference + (own[1] - at))
        return low, high


RESAMPLED = resampled(worst)


def _interval(hits: np.ndarray, parts: np.ndarray) -> Interval:
    """Holds the least of all parts' shares in 95 % at least, however many are near to it.

    It is no less than the least of the lower limits but where the limit of the worst part itself
    is wrong; it is above the least of the upper limits only where any of them is, so these share
    what they may miss (Bonferroni). Quantiles of resampled minima hold it in 34 % where five parts
    are alike: what is drawn from a minimum has a lower one.
    """
    limits = []
    counts, sums = np.bincount(parts), np.bincount(parts, weights=hits)
    there = np.flatnonzero(counts)
    for part in there:
        n, found = float(counts[part]), float(sums[part])
        low = stats.clopper_pearson_interval(found, n)[0]
        limits.append((low, stats.clopper_pearson_interval(found, n, 1 - 0.05 / len(there))[1]))
    lows, highs = zip(*limits, strict=True)
    return min(lows), min(highs)


def _gap(ours: np.ndarray, theirs: np.ndarray, parts: np.ndarray) -> WorstGap:
    worst_of = [_worst_part(hits, parts) for hits in (ours, theirs)]
    own = [parts == part for part in dict.fromkeys(worst_of)]
    gaps = tuple(ALONE.gap(ours[part], theirs[part], parts[part]) for part in own)
    gap = RESAMPLED.gap(ours, theirs, parts)
    assert isinstance(gap, ResampledGap)
    return WorstGap(gap, gaps)


def _worst_part(hits: np.ndarray, parts: np.ndarray) -> int:
    counts, sums = np.bincount(parts), np.bincount(parts, weights=hits)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    return int(means.argmin())


WORST = Estimate(worst, _interval, _gap)


def outcomes(ranked: Ranked) -> list[Outcome]:
    """Top-1 and top-5 of the worst part, where the data has parts."""
    rows = []
    for k in KS:
        if ranked.parts is not None and ranked.chance(k) < 1:
            hits = hits_at(ranked.ranks, k)
            decisions = hits if k > 1 or ranked.predicted is None else ranked.predicted
            name = f"{ranked.name} top-{k}, worst group"
            rest = (WORST, hits, decisions, ranked.parts, ranked.chance(k))
            rows.append(Outcome(name, ranked.side, *rest))
    return rows


METRIC = Metric("worst-group", "classification", outcomes)
