"""Macro F1: the mean over the classes of the F1 of each, as iWildCam is scored in WILDS."""

from __future__ import annotations

import numpy as np

from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import Outcome
from clipperf.evals.precision import macro_f1
from clipperf.evals.resampling import missed_over, resampled

MACRO_F1 = resampled(macro_f1, least=lambda _, labels: missed_over(np.bincount(labels)))
"""Of predicted classes, over the classes that have a sample."""


def outcomes(ranked: Ranked) -> list[Outcome]:
    """One figure, where predictions are known."""
    if ranked.predicted is None or ranked.chance(1) >= 1:
        return []
    rest = (ranked.predicted, ranked.predicted, ranked.groups, None)
    return [Outcome(f"{ranked.name} macro F1", ranked.side, MACRO_F1, *rest)]


METRIC = Metric(
    "macro-f1",
    "classification",
    outcomes,
    usual=False,
    figures=lambda candidates: ["macro F1"] if candidates > 1 else [],
)
