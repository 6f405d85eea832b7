"""What a score says beside the PyTorch baseline's: the one judgement of accuracy."""

from __future__ import annotations

import math
from enum import Enum

from clipperf.nouns.result import Score

KEPT_WITHIN = 0.01
"""Accuracy counts as kept where the whole paired interval lies above minus one point."""


class Verdict(Enum):
    """What became of the accuracy, in one word or two."""

    KEPT = "kept"
    LOST = "lost"
    UNRESOLVED = "unresolved"
    BASELINE = "baseline"
    NOT_COMPARED = "not compared"
    NOT_A_NUMBER = "not a number"
    RANDOM_WEIGHTS = "RANDOM WEIGHTS"


COMPARED = frozenset((Verdict.KEPT, Verdict.LOST, Verdict.UNRESOLVED))
"""Verdicts of a score that stands beside the baseline's on the same samples."""


def verdict_of(score: Score) -> Verdict:
    """What the paired difference to the baseline says; an interval that is no number says nothing.

    What a score is without a baseline (random weights, no number, the baseline itself) comes first.
    """
    if score.random_weights:
        return Verdict.RANDOM_WEIGHTS
    if not math.isfinite(score.value):
        return Verdict.NOT_A_NUMBER
    if score.difference is None or not math.isfinite(score.difference):
        return Verdict.BASELINE if score.baseline_value is None else Verdict.NOT_COMPARED
    if score.diff_ci95 is None or not all(map(math.isfinite, score.diff_ci95)):
        return Verdict.UNRESOLVED
    low, high = score.diff_ci95
    if low > -KEPT_WITHIN:
        return Verdict.KEPT
    return Verdict.LOST if high < 0 else Verdict.UNRESOLVED
