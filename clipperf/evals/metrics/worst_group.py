"""Top-k accuracy of the worst part of the data: a region of FMoW, an income of Dollar Street."""

from __future__ import annotations

import numpy as np

from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import Interval, Outcome, Reach, resampled, unseen
from clipperf.evals.ranks import hits_at

KS = (1, 5)


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


WORST = resampled(worst, least=_unseen)
"""A resampled minimum lies a little lower than the figure: the interval leans to that side."""


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
