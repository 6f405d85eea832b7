"""Intervals hold what they are for as often as they say: by all outcomes, or by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from clipperf.evals.metrics.macro_f1 import MACRO_F1
from clipperf.evals.metrics.roc_auc import ROC_AUC
from clipperf.evals.metrics.worst_group import WORST
from clipperf.evals.outcome import SHARE, Estimate
from clipperf.evals.precision import macro_f1

Draw = Callable[[], tuple[np.ndarray, np.ndarray]]


def held(estimate: Estimate, draw: Draw, truth: float, times: int) -> float:
    found = 0
    for _ in range(times):
        low, high = estimate.interval(*draw())
        found += low <= truth <= high
    return found / times


@pytest.mark.parametrize("n", [20, 50, 300])
def test_a_share(n: int) -> None:
    """Every count of hits, weighed by its chance: 95 % on the average of shares, never far below.

    Wilson's interval is a little short at some shares and a little long at others.
    """
    ends = np.array(
        [SHARE.interval(np.arange(n) < hits, np.zeros(n, int)) for hits in range(n + 1)]
    )
    ways = np.array([math.comb(n, hits) for hits in range(n + 1)], float)
    coverage = []
    for share in np.linspace(0.02, 0.98, 97):
        weights = ways * share ** np.arange(n + 1) * (1 - share) ** (n - np.arange(n + 1))
        inside = (ends[:, 0] <= share) & (share <= ends[:, 1])
        coverage.append(float(weights[inside].sum()))
    assert 0.945 < np.mean(coverage) < 0.965
    assert min(coverage) > 0.9


ALIKE, APART = (0.7,) * 5, (0.5, 0.7, 0.7, 0.8, 0.9)


@pytest.mark.parametrize("shares", [ALIKE, (0.65, 0.7, 0.7, 0.72, 0.75), APART])
def test_the_worst_part(shares: tuple[float, ...]) -> None:
    """Quantiles of resampled minima held that of parts that are alike in 34 %."""
    rng, parts = np.random.default_rng(0), np.repeat(np.arange(5), 60)
    each = np.asarray(shares)[parts]
    assert held(WORST, lambda: (rng.random(300) < each, parts), min(shares), 150) >= 0.95
    low, high = WORST.interval(rng.random(300) < each, parts)
    assert high - low < 0.4  # and it says something


@pytest.mark.parametrize(("shares", "lost"), [(ALIKE, 0.03), (APART, 0.01), (APART, 0.03)])
def test_the_gap_of_the_worst_part(shares: tuple[float, ...], lost: float) -> None:
    """Where few answers changed in the worst part, resampling all of them misses 19 %."""
    rng, parts = np.random.default_rng(1), np.repeat(np.arange(5), 200)
    each, found, times = np.asarray(shares)[parts], 0, 60
    for _ in range(times):
        theirs = rng.random(1000) < each
        ours = theirs & (rng.random(1000) >= lost / each)
        low, high = WORST.gap(ours, theirs, parts).interval()
        found += low <= -lost <= high
    assert found / times >= 0.93


@pytest.mark.parametrize(("classes", "images"), [(50, 5), (30, 20)])
def test_macro_f1_of_few_images_a_class(classes: int, images: int) -> None:
    """Draws leave out classes and lie lower: their quantiles held it in 81 % and 88 %."""
    rng, labels = np.random.default_rng(2), np.repeat(np.arange(classes), images)

    def answered(labels: np.ndarray) -> np.ndarray:
        other = (labels + rng.integers(1, classes, len(labels))) % classes
        return np.where(rng.random(len(labels)) < 0.7, labels, other)

    many = np.repeat(np.arange(classes), 4000)
    truth = macro_f1(answered(many), many)
    assert held(MACRO_F1, lambda: (answered(labels), labels), truth, 80) >= 0.92


@pytest.mark.parametrize(("n", "share"), [(60, 0.5), (200, 0.1)])
def test_roc_auc(n: int, share: float) -> None:
    rng = np.random.default_rng(3)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        right = np.arange(n) < n * share
        values = np.stack([rng.normal(size=n) + right, right.astype(float)], axis=1)
        return values[:, :, None], np.zeros(n, int)

    truth = 0.5 * (1 + math.erf(0.5))  # of two normal distributions one apart
    assert held(ROC_AUC, draw, truth, 80) >= 0.92
