"""The mean of top-1 and top-5 accuracy, as the Kinetics sets are scored."""

from __future__ import annotations

from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import SHARE, Outcome
from clipperf.evals.ranks import hits_at


def outcomes(ranked: Ranked) -> list[Outcome]:
    """One figure, where five classes can miss; an image counts 1, a half or nothing."""
    if ranked.chance(5) >= 1:
        return []
    values = (hits_at(ranked.ranks, 1) + hits_at(ranked.ranks, 5).astype(float)) / 2
    decisions = values if ranked.predicted is None else ranked.predicted
    chance = (ranked.chance(1) + ranked.chance(5)) / 2
    name = f"{ranked.name} mean(top-1, top-5)"
    return [Outcome(name, ranked.side, SHARE, values, decisions, ranked.groups, chance)]


METRIC = Metric(
    "mean-top-1-top-5",
    "classification",
    outcomes,
    usual=False,
    figures=lambda candidates: ["mean(top-1, top-5)"] if candidates > 5 else [],
)
