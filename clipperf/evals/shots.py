"""Few shots: probes of so many samples a class, drawn again and again, and what that says.

Two things are left to chance: which samples were drawn, and which images the test has. An interval
covers both: Student's over the repeats for the one, that of the metric for the other. Two models
are given the same draws, and are compared draw by draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.logistic import fit
from clipperf.evals.outcome import Estimate, Gap, Interval, Outcome
from clipperf.evals.probe import LENGTH, Probe, searched

SHOTS = (1, 2, 4, 8, 16)
REPEATS = 3

STRENGTH = 1 / 0.316
"""Where there is nothing to search on: what CLIP's own example of a linear probe takes. Features
are about `probe.LENGTH` long there; shorter ones take less."""


def drawn(labels: np.ndarray, shots: int, repeat: int) -> np.ndarray:
    """Indices of so many samples of each class; fewer are the first of more in the same repeat."""
    rng = np.random.default_rng(repeat)
    orders = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return np.concatenate([order[:shots] for order in orders])


def few_shot(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    shots: int,
    repeat: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> Probe:
    """The probe of one draw.

    The strength is searched on the validation split, which is not trained on; without one it is
    `STRENGTH` by the length of the features.

    Raises:
        UsageError: a class has fewer samples than are to be drawn.
    """
    check_shots(labels, classes, shots)
    own = drawn(labels, shots, repeat)
    few = features[own], labels[own]
    if validation is None:
        squares = np.einsum("ij,ij->", few[0], few[0], dtype=np.float64) / len(own)
        return Probe(fit(*few, classes, STRENGTH * float(squares) / LENGTH**2))

    return searched(few, validation, classes)


def most_shots(labels: np.ndarray, classes: int) -> int:
    """How many samples every class has."""
    return int(np.bincount(labels, minlength=classes).min())


def check_shots(labels: np.ndarray, classes: int, shots: int) -> None:
    """Raise UsageError where a class has fewer samples than are to be drawn."""
    least = most_shots(labels, classes)
    if shots > least:
        raise UsageError(f"{shots} shots, and a class has {least} samples to train on")


# --- figures over repeats ------------------------------------------------------------------


def over_repeats(
    outcomes: Sequence[Outcome], tested: Sequence[np.ndarray] | None = None
) -> Outcome:
    """One metric's results of several draws, as one: their mean.

    `tested` are the places of each draw's samples among all; without them all have the same.
    """
    first = outcomes[0]
    tested = tested or [np.arange(len(first.values))] * len(outcomes)
    every = np.unique(np.concatenate(tested))
    places = [np.searchsorted(every, own) for own in tested]
    groups = np.zeros(len(every), first.groups.dtype)
    for place, outcome in zip(places, outcomes, strict=True):
        groups[place] = outcome.groups
    return replace(
        first,
        estimate=_mean_of(first.estimate, places),
        values=_beside([outcome.values for outcome in outcomes], places, len(every)),
        decisions=_beside([outcome.decisions for outcome in outcomes], places, len(every)),
        groups=groups,
    )


def _beside(each: Sequence[np.ndarray], places: Sequence[np.ndarray], n: int) -> np.ndarray:
    """Values of draws as [n, draws, ...], zeros where a draw has none."""
    found = np.zeros((n, len(each), *each[0].shape[1:]), each[0].dtype)
    for i, (place, values) in enumerate(zip(places, each, strict=True)):
        found[place, i] = values
    return found


@dataclass(frozen=True)
class RepeatedGap:
    """A difference of means over draws: `differences` of each, and of each the test's share."""

    differences: tuple[float, ...]
    gaps: tuple[Gap, ...]

    def interval(self, times: float = 1.0) -> Interval:
        """See `Gap`; more samples of the test say no more of other draws."""
        return _both(self.differences, [gap.interval(times) for gap in self.gaps])


def _mean_of(one: Estimate, places: Sequence[np.ndarray]) -> Estimate:
    """The mean of a figure over draws: values are [n, draws, ...], those of each at its places."""
    each = list(enumerate(places))

    def figures(values: np.ndarray, groups: np.ndarray) -> list[float]:
        return [one.value(values[own, i], groups[own]) for i, own in each]

    def value(values: np.ndarray, groups: np.ndarray) -> float:
        return float(np.mean(figures(values, groups)))

    def interval(values: np.ndarray, groups: np.ndarray) -> Interval:
        intervals = [one.interval(values[own, i], groups[own]) for i, own in each]
        low, high = _both(figures(values, groups), intervals)
        return max(0.0, low), min(1.0, high)

    def gap(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray) -> RepeatedGap:
        pairs = zip(figures(ours, groups), figures(theirs, groups), strict=True)
        gaps = (one.gap(ours[own, i], theirs[own, i], groups[own]) for i, own in each)
        return RepeatedGap(tuple(a - b for a, b in pairs), tuple(gaps))

    return Estimate(value, interval, gap, one.independent)


def _both(figures: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """The interval of a mean over draws, each of which has one for the samples of its test.

    The two are independent, so their squares add up. A mean over draws varies with the test at
    most as the draws do on average.
    """
    mean, drawn = float(np.mean(figures)), student(figures)
    below = float(np.mean([f - low for f, (low, _) in zip(figures, intervals, strict=True)]))
    above = float(np.mean([high - f for f, (_, high) in zip(figures, intervals, strict=True)]))
    return mean - math.hypot(below, drawn), mean + math.hypot(above, drawn)


def student(values: Sequence[float]) -> float:
    """Half of the width of Student's 95 % interval of a mean; 0 of one value, which tells none."""
    if len(values) < 2:
        return 0.0
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values)))


def shots_equal_to(value: float, shots: Sequence[int], figures: Sequence[float]) -> str:
    """How many shots give a figure, between those that were tried log-linearly; in words.

    (The CLIP paper's data efficiency, section 3.1.5.)
    """
    if value <= figures[0]:
        return f"at most {shots[0]}"
    places = zip(shots, figures, shots[1:], figures[1:], strict=False)
    for few, below, many, above in places:
        if below < value <= above:
            share = (value - below) / (above - below)
            return f"about {few * (many / few) ** share:.1f}"
    return f"more than {shots[-1]}"
