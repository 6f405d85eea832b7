"""Mean per-class recall: the mean over classes of each one's top-1 accuracy."""

from __future__ import annotations

from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import MEAN_OVER_CLASSES, Outcome
from clipperf.evals.ranks import hits_at


def outcomes(ranked: Ranked) -> list[Outcome]:
    """One figure; an image flips with its class."""
    if (chance := ranked.chance(1)) >= 1:
        return []
    hits = hits_at(ranked.ranks, 1)
    decisions = hits if ranked.predicted is None else ranked.predicted
    name = f"{ranked.name} mean per-class recall"
    rest = (hits, decisions, ranked.groups, chance)
    return [Outcome(name, ranked.side, MEAN_OVER_CLASSES, *rest)]


METRIC = Metric(
    "mean-per-class-recall",
    "classification",
    outcomes,
    figures=lambda candidates: ["mean per-class recall"] if candidates > 1 else [],
)
