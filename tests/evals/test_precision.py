"""Precision and recall by hand, and as scikit-learn and CLIP_benchmark have them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn

from clipperf.evals.precision import (
    average_precision,
    curve,
    eleven_point,
    macro_f1,
    roc_auc,
)

RNG = np.random.default_rng(0)
CASES = {
    "plain": (RNG.normal(size=400), RNG.random(400) < 0.2),
    "tied": (RNG.integers(0, 12, 400) / 10, RNG.random(400) < 0.4),
    "rare": (RNG.normal(size=300), np.arange(300) == 7),
    "all alike": (np.zeros(50), RNG.random(50) < 0.5),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    return CASES[request.param]


def test_a_curve_by_hand() -> None:
    hits, taken = curve(np.array([0.2, 0.9, 0.5, 0.5]), np.array([1, 1, 0, 1], bool))
    assert (hits.tolist(), taken.tolist()) == ([1, 2, 3], [1, 3, 4])
    assert average_precision(np.array([0.2, 0.9, 0.5, 0.5]), np.array([1, 1, 0, 1], bool)) == (
        pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    )


def test_scores_that_differ_by_rounding_are_equal() -> None:
    right = np.array([True, False, True])
    for score in (0.3, 0.3 + 5e-13):  # which lies between two numbers of twelve decimals
        near, equal = np.array([score, score + 1e-15, 0.1]), np.array([score, score, 0.1])
        for figure in (average_precision, eleven_point, roc_auc):
            assert figure(near, right) == figure(equal, right)


def test_as_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, right = case
    expected = sklearn.average_precision_score(right, scores)
    assert average_precision(scores, right) == pytest.approx(expected, abs=1e-6)
    weights = np.random.default_rng(1).random(len(scores))
    expected = sklearn.average_precision_score(right, scores, sample_weight=weights)
    assert average_precision(scores, right, weights) == pytest.approx(expected, abs=1e-6)
    assert roc_auc(scores, right) == pytest.approx(sklearn.roc_auc_score(right, scores), abs=1e-6)


def test_macro_f1_as_scikit_learn_over_the_classes_that_are_there() -> None:
    labels, predicted = RNG.integers(0, 6, 200) * 2, RNG.integers(0, 15, 200)
    expected = sklearn.f1_score(labels, predicted, average="macro", labels=np.unique(labels))
    assert macro_f1(predicted, labels) == pytest.approx(expected, abs=1e-6)


def test_average_precision_as_clip_benchmark_where_nothing_is_tied() -> None:
    scores, right = CASES["plain"]
    truth = right[np.argsort(-scores)]
    precision = np.cumsum(truth) / np.arange(1, len(truth) + 1)
    expected = precision[truth].sum() / truth.sum()
    assert average_precision(scores, right) == pytest.approx(expected, abs=1e-6)


def test_eleven_points_one_by_one(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, right = case
    precision, recall, _ = sklearn.precision_recall_curve(right, scores)
    precision, recall = precision[:-1], recall[:-1]  # without the point at a recall of 0
    expected = np.mean([precision[recall >= t - 1e-12].max() for t in np.arange(11) / 10])
    assert eleven_point(scores, right) == pytest.approx(expected, abs=1e-6)


def test_what_has_no_figure() -> None:
    scores, none = np.arange(3.0), np.zeros(3, bool)
    found = [average_precision(scores, none), eleven_point(scores, none)]
    found += [roc_auc(scores, none), roc_auc(scores, ~none)]
    assert np.isnan(found).all()
    assert average_precision(scores, ~none) == eleven_point(scores, ~none) == 1
