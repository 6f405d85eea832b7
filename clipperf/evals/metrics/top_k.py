"""Top-k accuracy: the share of images whose class is among the k best."""

from __future__ import annotations

from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import SHARE, Outcome
from clipperf.evals.ranks import hits_at

KS = (1, 5)


def outcomes(ranked: Ranked) -> list[Outcome]:
    """Top-1, where an image flips with its class, and top-5, where it flips with its hit."""
    rows = []
    for k in KS:
        if (chance := ranked.chance(k)) < 1:
            hits = hits_at(ranked.ranks, k)
            decisions = hits if k > 1 or ranked.predicted is None else ranked.predicted
            name = f"{ranked.name} top-{k}"
            rows.append(Outcome(name, ranked.side, SHARE, hits, decisions, ranked.groups, chance))
    return rows


METRIC = Metric(
    "top-k",
    "classification",
    outcomes,
    figures=lambda candidates: [f"top-{k}" for k in KS if k < candidates],
)
