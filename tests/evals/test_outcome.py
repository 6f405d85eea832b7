"""Figures of samples and their intervals against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clipperf import stats
from clipperf.evals.outcome import (
    MEAN_OVER_CLASSES,
    SHARE,
    SHARE_OF_GROUPS,
    Estimate,
    Outcome,
    grouped_mean_interval,
    mean_interval,
    mean_per_class,
    mean_per_class_interval,
)


def test_mean_per_class_weighs_classes_alike_and_leaves_out_empty_ones() -> None:
    labels = np.array([0, 0, 0, 2])  # class 1 and class 3 have no sample
    assert mean_per_class(np.array([1.0, 1.0, 0.0, 0.0]), labels) == pytest.approx(1 / 3)
    assert mean_per_class(np.array([1.0, 1.0]), np.array([4, 4])) == 1.0


def test_mean_per_class_interval() -> None:
    labels = np.repeat(np.arange(10), 20)
    hits = (np.arange(200) % 2).astype(float)
    low, high = mean_per_class_interval(hits, labels)
    # Balanced classes: about 1.96 * sqrt(0.25 / 200) either side of the half.
    assert 0.5 - low == pytest.approx(0.069, abs=0.01)
    assert high - 0.5 == pytest.approx(0.069, abs=0.01)
    assert (low, high) == mean_per_class_interval(hits, labels)
    assert mean_per_class_interval(np.ones(3), np.arange(3)) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no samples"):
        mean_per_class(np.ones(0), np.ones(0, dtype=int))


def test_grouped_interval_counts_groups_not_samples() -> None:
    rng = np.random.default_rng(2)
    right = (rng.random(100) < 0.5).astype(float)
    alone = grouped_mean_interval(right, np.arange(100))
    # The same samples ten times over are no more evidence.
    assert grouped_mean_interval(np.repeat(right, 10), np.repeat(np.arange(100), 10)) == alone
    assert alone[1] - alone[0] == pytest.approx(2 * 1.96 * (0.25 / 100) ** 0.5, rel=0.15)


def test_grouped_interval_with_groups_of_unequal_size() -> None:
    assert grouped_mean_interval(np.ones(5), np.array([3, 0, 0, 0, 7])) == (1.0, 1.0)
    low, high = grouped_mean_interval(np.array([1.0, 1, 1, 0]), np.array([0, 0, 0, 1]))
    assert (low, high) == (0.0, 1.0)


# --- figures as metrics ask for them -------------------------------------------------------


def outcome(estimate: Estimate, values: list[float], groups: list[int]) -> Outcome:
    return Outcome("m", "image", estimate, np.array(values), np.array(values), np.array(groups), 0)


def drawn(statistic: Callable[[np.ndarray], float], n: int) -> tuple[float, float]:
    """A percentile interval by 2000 draws of `n` with seed 0, in plain steps."""
    rng = np.random.default_rng(0)
    found = [statistic(rng.integers(0, n, n)) for _ in range(2000)]
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


VALUES = np.random.default_rng(7).random(60)
GROUPS = np.random.default_rng(8).integers(0, 20, 60) + 3


def test_intervals_are_two_thousand_draws_that_anybody_can_repeat() -> None:
    values, groups = VALUES, GROUPS
    alone = drawn(lambda index: float(values[index].mean()), 60)
    assert mean_interval(values, groups) == pytest.approx(alone, abs=1e-12)
    classes = drawn(
        lambda index: float(
            np.mean([values[index][groups[index] == c].mean() for c in set(groups[index])])
        ),
        60,
    )
    assert mean_per_class_interval(values, groups) == pytest.approx(classes, abs=1e-12)
    parts = [values[groups == group] for group in np.unique(groups)]
    whole = drawn(lambda index: float(np.concatenate([parts[i] for i in index]).mean()), len(parts))
    assert grouped_mean_interval(values, groups) == pytest.approx(whole, abs=1e-12)


def test_one_draw_alone_has_no_width() -> None:
    values, groups = VALUES, GROUPS
    for interval in (mean_per_class_interval, grouped_mean_interval):
        assert len(set(interval(values, groups, resamples=1))) == 1


def test_a_share() -> None:
    hits = outcome(SHARE, [True] * 3 + [False], [0, 0, 1, 1])
    assert hits.value == 0.75
    assert hits.interval == stats.wilson_interval(3, 4)
    other = outcome(SHARE, [True] + [False] * 3, [0, 0, 1, 1])
    assert hits.gap(other) == stats.paired_difference_interval([0, 1, 1, 0], [0] * 4)
    assert hits.gap(other)[1] > 0 and other.gap(hits)[0] < 0
    assert hits.gap(hits) == (0.0, 0.0)


def test_a_share_of_groups() -> None:
    hits, groups = [True, True, False, True, False], [0, 0, 0, 1, 1]
    found = outcome(SHARE_OF_GROUPS, hits, groups)
    assert found.value == 0.6
    assert found.interval == grouped_mean_interval(np.array(hits, float), np.array(groups))
    other = outcome(SHARE_OF_GROUPS, [False] * 5, groups)
    assert found.gap(other) == found.interval


def test_a_mean_over_classes() -> None:
    hits, groups = [True, True, False, True, False, False], [0, 0, 0, 1, 1, 1]
    found = outcome(MEAN_OVER_CLASSES, hits, groups)
    assert found.value == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found.interval == mean_per_class_interval(np.array(hits, float), np.array(groups))
    assert found.gap(outcome(MEAN_OVER_CLASSES, [False] * 6, groups)) == found.interval


@pytest.mark.parametrize(
    ("estimate", "hits", "groups", "interval"),
    [
        # Wilson of all of n: from n / (n + 1.96^2) to 1; n are three groups, or five samples.
        (SHARE_OF_GROUPS, [1] * 5, [0, 0, 3, 7, 7], (3 / 6.8416, 1)),
        (SHARE_OF_GROUPS, [0] * 5, [0, 0, 3, 7, 7], (0, 3.8416 / 6.8416)),
        (MEAN_OVER_CLASSES, [1] * 5, [0, 0, 3, 7, 7], (5 / 8.8416, 1)),
        (MEAN_OVER_CLASSES, [0] * 5, [0, 0, 3, 7, 7], (0, 3.8416 / 8.8416)),
        # Every group half right is 2 of 4 groups.
        (SHARE_OF_GROUPS, [1, 0] * 4, [0, 0, 1, 1, 2, 2, 3, 3], (0.1500, 0.8500)),
    ],
)
def test_agreement_leaves_the_doubt_of_few_samples(
    estimate: Estimate, hits: list[int], groups: list[int], interval: tuple[float, float]
) -> None:
    found = outcome(estimate, [bool(hit) for hit in hits], groups).interval
    assert found == pytest.approx(interval, abs=1e-4)
