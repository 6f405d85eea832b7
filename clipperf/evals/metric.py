"""Metrics: how answers become figures. A metric is one record in a file of `metrics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import chance_any_in_top
from clipperf.nouns.variant import Side
from clipperf.registry import Registry


@dataclass(frozen=True)
class Ranked:
    """Where each of n queries ranked what is right for it among a number of candidates.

    `candidates` is that number, or int [n] where each query has its own.
    `name` begins the names of its figures. `kind` chooses the metrics: "classification",
    "retrieval", or one of the task's own. `side` is the one that queries. `ranks` int64 [n] are
    those of `evals.ranks`. `groups` int [n] is the class or image that a query belongs to;
    `clustered` says that queries of one group are alike, such as the captions of one image.
    `right` int [n] counts the candidates that are right for each query, None for one each.
    `predicted` int64 [n] is the candidate that the model chose, where that is known. `parts` int
    [n] are those of the data that are looked at by themselves, such as regions of the world, and
    `slices` bool [n] by name are groups that have figures of their own.
    """

    name: str
    kind: str
    side: Side
    ranks: np.ndarray
    candidates: int | np.ndarray
    groups: np.ndarray
    clustered: bool = False
    right: np.ndarray | None = None
    predicted: np.ndarray | None = None
    parts: np.ndarray | None = None
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)

    def chance(self, k: int) -> float:
        """The expected share of hits at `k` of guessing; 1 where none can miss."""
        if self.right is None:
            return float(np.mean(np.minimum(1.0, k / np.asarray(self.candidates))))
        return chance_any_in_top(k, self.candidates, self.right)


@dataclass(frozen=True)
class Scored:
    """How high each of n queries scored each of a number of candidates.

    `kind` is "multi-label" (any number of candidates is right), "binary" (one candidate, that it
    is), "actions" (clips of videos) or one of the task's own. `scores` float [n, candidates],
    `right` bool like it. `strata` int like it, for "actions": clips of one video in one list have
    the same number, -1 is in no list of a candidate.
    """

    name: str
    kind: str
    side: Side
    scores: np.ndarray
    right: np.ndarray
    strata: np.ndarray | None = None

    @property
    def stacked(self) -> np.ndarray:
        """Scores, what is right, and strata where there are any, as values of an outcome."""
        parts = [self.scores, self.right, *([] if self.strata is None else [self.strata])]
        return np.stack([np.asarray(part, np.float64) for part in parts], axis=1)

    @property
    def best(self) -> np.ndarray:
        """What each query decides for: its best candidate; of one candidate, whether it is."""
        if self.scores.shape[1] == 1:
            return self.scores[:, 0] > 0
        best: np.ndarray = self.scores.argmax(axis=1)
        return best

    @property
    def no_groups(self) -> np.ndarray:
        """One group for all."""
        return np.zeros(len(self.scores), np.int64)


@dataclass(frozen=True)
class Located:
    """How far from the right place each of n queries was taken to be, in km: kind "geolocation"."""

    name: str
    side: Side
    km: np.ndarray
    kind: str = "geolocation"


Answers = Ranked | Scored | Located


@dataclass(frozen=True)
class Metric:
    """A metric: `outcomes(answers)` are its figures of what is of its `kind`, most often one a k.

    Which of the records of answers it is given depends on the kind. Figures that cannot miss (k at
    or above the number of candidates) are left out. One that is not `usual` is a row only where a
    dataset asks for it. `figures(candidates)` are the names that its figures may have, without the
    name of the answers; None: that cannot be said before there are answers.
    """

    name: str
    kind: str
    outcomes: Callable[[Any], list[Outcome]]
    usual: bool = True
    figures: Callable[[int], Sequence[str]] | None = None


METRICS: Registry[Metric] = Registry(
    "metric",
    room="clipperf.evals.metrics",
    first=("top-k", "mean-per-class-recall", "recall-at-k", "worst-group", "average-precision"),
)
"""Every metric, in the order of the rows."""


def measured(answers: Answers) -> list[Outcome]:
    """What every metric of its kind makes of it."""
    return [
        replace(outcome, usual=metric.usual and outcome.usual)
        for metric in METRICS
        if metric.kind == answers.kind
        for outcome in metric.outcomes(answers)
    ]


ANY = "*"
"""Stands for figures whose names are not known before there are answers."""


def figures_of(name: str, kind: str, candidates: int) -> list[str]:
    """The names of the figures that answers of this name and kind may have."""
    return [
        f"{name} {figure}"
        for metric in METRICS
        if metric.kind == kind
        for figure in ((ANY,) if metric.figures is None else metric.figures(candidates))
    ]
