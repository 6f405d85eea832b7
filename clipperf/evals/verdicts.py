"""What a score says beside the PyTorch baseline's: the one judgement of accuracy."""

from __future__ import annotations

import math
from enum import Enum

from clipperf.errors import UsageError
from clipperf.evals.outcome import Gap, Interval
from clipperf.nouns.result import Aim, Score
from clipperf.text import quoted

MARGIN = 0.01
"""What a figure may lose where nothing else is asked for: one percentage point."""

MOST_SAMPLES = 1e9
"""Where more would be needed, no number says anything."""


class Verdict(Enum):
    """What became of the accuracy, in a few words.

    Equivalent: the whole paired interval lies above minus the margin. Worse: it lies below zero.
    Too few samples: neither. Of a figure that aims to be the same, equivalent: the interval lies
    within the margin on both sides; different: it does not hold zero.
    """

    EQUIVALENT = "equivalent"
    WORSE = "worse"
    DIFFERENT = "different"
    TOO_FEW = "too few samples"
    BASELINE = "baseline"
    NOT_COMPARED = "not compared"
    NOT_A_NUMBER = "not a number"
    RANDOM_WEIGHTS = "RANDOM WEIGHTS"


COMPARED = frozenset((Verdict.EQUIVALENT, Verdict.WORSE, Verdict.DIFFERENT, Verdict.TOO_FEW))
"""Verdicts of a score that stands beside the baseline's on the same samples."""


def margin_of(score: Score) -> float:
    """What a score was allowed to lose, as a share of one."""
    return MARGIN if score.margin is None else score.margin


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
        return Verdict.TOO_FEW
    return _said(score.diff_ci95, margin_of(score), score.aim)


def _said(interval: Interval, margin: float, aim: Aim) -> Verdict:
    low, high = interval
    if aim == "same":
        if -margin < low and high < margin:
            return Verdict.EQUIVALENT
        return Verdict.TOO_FEW if low <= 0 <= high else Verdict.DIFFERENT
    if low > -margin:
        return Verdict.EQUIVALENT
    return Verdict.WORSE if high < 0 else Verdict.TOO_FEW


def samples_needed(gap: Gap, n: int, margin: float, aim: Aim = "high") -> int | None:
    """How many samples would settle the verdict, did they answer like these n.

    To two digits, rounded up: more would be more than the samples say. None where they settle it
    already, or where no number would.
    """

    def settled(times: float) -> bool:
        interval = gap.interval(times)
        known = all(map(math.isfinite, interval))
        return not known or _said(interval, margin, aim) != Verdict.TOO_FEW

    if settled(1.0):
        return None
    few, enough = 1.0, 2.0
    while not settled(enough):
        few, enough = enough, 2 * enough
        if enough * n > MOST_SAMPLES:
            return None
    while enough / few > 1.01:
        middle = math.sqrt(few * enough)
        few, enough = (few, middle) if settled(middle) else (middle, enough)
    wanted = enough * n
    unit = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    return math.ceil(wanted / unit) * unit


def parse_margin(text: str) -> float:
    """A margin in percentage points, "0.5" or "0.5pp", as a share of one.

    Raises:
        UsageError: it is none.
    """
    number = text.strip().removesuffix("pp").strip()
    try:
        points = float(number)
    except ValueError:
        points = math.nan
    if not 0 < points <= 100:
        raise UsageError(f"--margin {quoted(text)}: give percentage points above 0, such as 0.5pp")
    return points / 100


def not_equivalent(scores: tuple[Score, ...]) -> list[str]:
    """What keeps the scores from being equivalent to the baseline's, a line each; none: they are.

    Where nothing was compared, nothing has been shown; nor of a figure that is no number.
    """
    verdicts = [(score, verdict_of(score)) for score in scores]
    if not any(verdict in COMPARED for _, verdict in verdicts):
        return ["nothing was compared with the baseline"]
    return [
        f"{score.cell.label}: {score.dataset}, {score.metric}: {in_words(score)}"
        for score, verdict in verdicts
        if verdict not in (Verdict.EQUIVALENT, Verdict.BASELINE, Verdict.RANDOM_WEIGHTS)
    ]


def in_words(score: Score) -> str:
    """The verdict, with how many samples would do where there are too few."""
    verdict = verdict_of(score)
    if verdict is Verdict.TOO_FEW and score.samples_needed is not None:
        return f"{verdict.value}: about {score.samples_needed} would do"
    return verdict.value
