"""ROC AUC of two classes: the chance that an image of the second scores above one of the first."""

from __future__ import annotations

import numpy as np

from clipperf.evals.metric import Metric, Scored
from clipperf.evals.outcome import Outcome, resampled
from clipperf.evals.precision import roc_auc


def _value(values: np.ndarray, groups: np.ndarray) -> float:
    return roc_auc(values[:, 0, 0], values[:, 1, 0] > 0)


ROC_AUC = resampled(_value)


def outcomes(scored: Scored) -> list[Outcome]:
    """One figure; an image flips with its class."""
    rest = (scored.stacked, scored.best, scored.no_groups, 0.5)
    return [Outcome(f"{scored.name} ROC AUC", scored.side, ROC_AUC, *rest)]


METRIC = Metric("roc-auc", "binary", outcomes, usual=False)
