"""Metrics: how ranks become figures. A metric is one record in a file of `metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import chance_any_in_top
from clipperf.nouns.variant import Side
from clipperf.registry import Registry


@dataclass(frozen=True)
class Ranked:
    """Where each of n queries ranked what is right for it among a number of candidates.

    `name` begins the names of its figures. `kind` chooses the metrics: "classification",
    "retrieval", or one of the task's own. `side` is the one that queries. `ranks` int64 [n] are
    those of `evals.ranks`. `groups` int [n] is the class or image that a query belongs to;
    `clustered` says that queries of one group are alike, such as the captions of one image.
    `right` int [n] counts the candidates that are right for each query, None for one each.
    `predicted` int64 [n] is the candidate that the model chose, where that is known.
    """

    name: str
    kind: str
    side: Side
    ranks: np.ndarray
    candidates: int
    groups: np.ndarray
    clustered: bool = False
    right: np.ndarray | None = None
    predicted: np.ndarray | None = None

    def chance(self, k: int) -> float:
        """The expected share of hits at `k` of guessing; 1 where none can miss."""
        if self.right is None:
            return min(1.0, k / self.candidates)
        return chance_any_in_top(k, self.candidates, self.right)


@dataclass(frozen=True)
class Metric:
    """A metric: `outcomes(ranked)` are its figures of what is of its `kind`, most often one a k.

    Figures that cannot miss (k at or above the number of candidates) are left out.
    """

    name: str
    kind: str
    outcomes: Callable[[Ranked], list[Outcome]]


METRICS: Registry[Metric] = Registry(
    "metric",
    room="clipperf.evals.metrics",
    first=("top-k", "mean-per-class-recall", "recall-at-k"),
)
"""Every metric, in the order of the rows."""


def measured(ranked: Ranked) -> list[Outcome]:
    """What every metric of its kind makes of it."""
    return [
        outcome
        for metric in METRICS
        if metric.kind == ranked.kind
        for outcome in metric.outcomes(ranked)
    ]
