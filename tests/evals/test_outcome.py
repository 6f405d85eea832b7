"""Figures of samples and their intervals against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clipperf.evals.outcome import grouped_mean_interval, mean_per_class, mean_per_class_interval


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
