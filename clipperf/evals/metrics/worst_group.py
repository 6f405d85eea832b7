"""Top-k accuracy of the worst part of the data: a region of FMoW, an income of Dollar Street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipperf import stats
from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import ALONE, Estimate, Interval, MeanGap, Outcome
from clipperf.evals.ranks import hits_at
from clipperf.evals.resampling import Reach, ResampledGap, resampled, unseen

KS = (1, 5)

WORST_GROUP = "worst group"
"""What figures call the part that they are of."""


def worst(hits: np.ndarray, parts: np.ndarray) -> float:
    """The least mean over the samples of one part; parts without a sample are left out."""
    return float(_shares(hits, parts)[0].min())


def _shares(hits: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the samples of each part that has any, and how many these are."""
    counts = np.bincount(parts)
    sums = np.bincount(parts, weights=hits)
    return sums[counts > 0] / counts[counts > 0], counts[counts > 0]


def _unseen(hits: np.ndarray, parts: np.ndarray) -> Reach:
    """What each part may miss, by its own samples: any may become the worst, or no longer be it."""
    shares, counts = _shares(hits, parts)

    def reach(times: float) -> Interval:
        missed = np.array([unseen(n * times) for n in counts.tolist()])
        down, up = np.maximum(shares - missed, 0).min(), np.minimum(shares + missed, 1).min()
        return float(shares.min() - down), float(up - shares.min())

    return reach


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


RESAMPLED = resampled(worst, least=_unseen)


def _interval(hits: np.ndarray, parts: np.ndarray) -> Interval:
    """Holds the least of all parts' shares in 95 % at least, however many are near to it.

    It is no less than the least of the lower limits but where the limit of the worst part itself
    is wrong; it is above the least of the upper limits only where any of them is, so these share
    what they may miss (Bonferroni). Quantiles of resampled minima hold it in 34 % where five parts
    are alike: what is drawn from a minimum has a lower one.
    """
    shares, counts = _shares(hits, parts)
    both = list(zip((shares * counts).tolist(), counts.tolist(), strict=True))
    level = 1 - 0.05 / len(both)
    return (
        min(stats.clopper_pearson_interval(found, n)[0] for found, n in both),
        min(stats.clopper_pearson_interval(found, n, level)[1] for found, n in both),
    )


def _gap(ours: np.ndarray, theirs: np.ndarray, parts: np.ndarray) -> WorstGap:
    worst_of = [_worst_part(hits, parts) for hits in (ours, theirs)]
    own = [parts == part for part in dict.fromkeys(worst_of)]
    gaps = tuple(ALONE.gap(ours[part], theirs[part], parts[part]) for part in own)
    gap = RESAMPLED.gap(ours, theirs, parts)
    assert isinstance(gap, ResampledGap)
    return WorstGap(gap, gaps)


def _worst_part(hits: np.ndarray, parts: np.ndarray) -> int:
    return int(np.unique(parts)[_shares(hits, parts)[0].argmin()])


WORST = Estimate(worst, _interval, _gap)


def outcomes(ranked: Ranked) -> list[Outcome]:
    """Top-1 and top-5 of the worst part, where the data has parts."""
    rows = []
    for k in KS:
        if ranked.parts is not None and ranked.chance(k) < 1:
            hits = hits_at(ranked.ranks, k)
            decisions = hits if k > 1 or ranked.predicted is None else ranked.predicted
            name = f"{ranked.name} {figure_of(k)}"
            rest = (WORST, hits, decisions, ranked.parts, ranked.chance(k))
            whole = f"{ranked.name} top-{k}"
            rows.append(Outcome(name, ranked.side, *rest, group=WORST_GROUP, whole=whole))
    return rows


def figure_of(k: int) -> str:
    """The name of a figure, without that of the answers."""
    return f"top-{k}, {WORST_GROUP}"


def figures_of_worst(name: str, candidates: int) -> list[str]:
    """The names of the figures that answers of this name have where the data has groups."""
    return [f"{name} {figure_of(k)}" for k in KS if k < candidates]


METRIC = Metric("worst-group", "classification", outcomes, figures=lambda candidates: [])
# Tasks know whether there are groups: see `figures_of_worst`.
