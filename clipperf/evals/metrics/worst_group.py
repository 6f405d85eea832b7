"""Top-k accuracy of the worst part of the data: a region of FMoW, an income of Dollar Street."""

from __future__ import annotations

import numpy as np

from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import Outcome, resampled
from clipperf.evals.ranks import hits_at

KS = (1, 5)


def worst(hits: np.ndarray, parts: np.ndarray) -> float:
    """The least mean over the samples of one part; parts without a sample are left out."""
    counts = np.bincount(parts)
    sums = np.bincount(parts, weights=hits)
    return float((sums[counts > 0] / counts[counts > 0]).min())


WORST = resampled(worst)
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
