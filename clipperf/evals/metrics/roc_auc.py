"""ROC AUC of two classes: the chance that an image of the second scores above one of the first."""

from __future__ import annotations

import numpy as np

from clipperf.evals.metric import Metric, Scored
from clipperf.evals.outcome import Outcome
from clipperf.evals.precision import roc_auc
from clipperf.evals.resampling import Reach, missed_over, resampled


def _value(values: np.ndarray, groups: np.ndarray) -> float:
    return roc_auc(values[:, 0, 0], values[:, 1, 0] > 0)


def _unseen(values: np.ndarray, groups: np.ndarray) -> Reach:
    """By the rarer class: each of its images is in as many pairs as the other has images."""
    right = values[:, 1, 0] > 0
    rarer = min(int(right.sum()), int((~right).sum()))
    return missed_over(np.array([rarer]))


ROC_AUC = resampled(_value, least=_unseen)


def outcomes(scored: Scored) -> list[Outcome]:
    """One figure; an image flips with its class."""
    rest = (scored.stacked, scored.best, scored.no_groups, 0.5)
    return [Outcome(f"{scored.name} ROC AUC", scored.side, ROC_AUC, *rest)]


METRIC = Metric(
    "roc-auc",
    "binary",
    outcomes,
    usual=False,
    figures=lambda candidates: ["ROC AUC"],
)
