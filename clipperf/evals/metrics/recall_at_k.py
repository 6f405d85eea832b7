"""recall@k: the share of queries that have something right among their k best candidates."""

from __future__ import annotations

from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import SHARE, SHARE_OF_GROUPS, Outcome
from clipperf.evals.ranks import hits_at

KS = (1, 5, 10)


def outcomes(ranked: Ranked) -> list[Outcome]:
    """recall@1, @5 and @10; a query flips with its hit."""
    estimate = SHARE_OF_GROUPS if ranked.clustered else SHARE
    rows = []
    for k in KS:
        if (chance := ranked.chance(k)) < 1:
            hits = hits_at(ranked.ranks, k)
            rest = (hits, hits, ranked.groups, chance)
            rows.append(Outcome(f"{ranked.name} recall@{k}", ranked.side, estimate, *rest))
    return rows


METRIC = Metric(
    "recall-at-k",
    "retrieval",
    outcomes,
    figures=lambda candidates: [f"recall@{k}" for k in KS if k < candidates],
)
