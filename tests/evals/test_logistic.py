"""Logistic regression beside scikit-learn's: several classes, two, and several an image."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from blobs import CLASSES, TEST, TRAIN, blobs, theirs

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.evals.logistic import fit


@pytest.mark.parametrize("strength", [0.1, 3.0, 100.0])
def test_a_classifier_is_scikit_learns(strength: float) -> None:
    ours, own = fit(*TRAIN, CLASSES, strength), theirs(TRAIN, strength)
    assert ours.weights == pytest.approx(own.coef_, abs=3e-3 * np.abs(own.coef_).max())
    assert ours.scores(TEST[0]).argmax(axis=1).tolist() == own.predict(TEST[0]).tolist()
    assert 0 < ours.iterations <= 1000
    again = fit(*TRAIN, CLASSES, strength, fit(*TRAIN, CLASSES, 1.0))
    assert again.weights == pytest.approx(ours.weights, abs=3e-3 * np.abs(own.coef_).max())


def test_what_cannot_be_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = TRAIN
    with pytest.raises(UsageError, match="250 labels for features of shape"):
        fit(features[:9], labels, CLASSES, 1.0)
    with pytest.raises(UsageError, match="label 4, but there are only 3 classes"):
        fit(features, labels, 3, 1.0)
    with pytest.raises(UsageError, match="not a finite number"):
        fit(np.where(features > 1, np.nan, features), labels, CLASSES, 1.0)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingDependencyError, match=r"clipperf\[probe\]"):
        fit(features, labels, CLASSES, 1.0)


def test_float32_features_stay_what_they_are() -> None:
    found = fit(TRAIN[0].astype(np.float32), TRAIN[1], CLASSES, 1.0)
    assert found.weights.dtype == np.float32 and found.scores(TEST[0]).dtype == np.float64
    wide = fit(*TRAIN, CLASSES, 1.0)
    assert found.weights == pytest.approx(wide.weights, abs=5e-3)


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_two_classes_are_one_regression_as_scikit_learns(strength: float) -> None:
    train, test = blobs(120, 1, classes=2, noise=2.5), blobs(200, 2, classes=2, noise=2.5)
    ours, own = fit(*train, 2, strength), theirs(train, strength)
    assert ours.weights[1] - ours.weights[0] == pytest.approx(own.coef_[0], abs=3e-3)
    scores = ours.scores(test[0])
    assert scores[:, 1] - scores[:, 0] == pytest.approx(own.decision_function(test[0]), abs=2e-2)
    again = fit(*train, 2, strength, ours)
    assert again.iterations <= 2 and again.weights == pytest.approx(ours.weights, abs=1e-3)


def test_classes_that_an_image_may_have_several_of_are_one_regression_each() -> None:
    features, labels = TRAIN
    right = np.stack([labels == c for c in range(3)], axis=1)
    right[:, 2] |= features[:, 0] > 1
    ours = fit(features, right, 3, 2.0)
    for c in range(3):
        own = theirs((features, right[:, c]), 2.0)
        assert ours.weights[c] == pytest.approx(own.coef_[0], abs=5e-3)
        assert ours.biases[c] == pytest.approx(own.intercept_[0], abs=5e-3)
    with pytest.raises(UsageError, match="labels of shape"):
        fit(features, right, 4, 2.0)


def test_large_logits_overflow_nowhere() -> None:
    features = np.array([[1e3], [-1e3], [9e2], [-9e2]], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        found = fit(features, np.array([1, 0, 1, 0]), 2, 1e-6)
    assert found.accuracy(features, np.array([1, 0, 1, 0])) == 1


def test_many_classes_of_short_features_are_trained() -> None:
    """The loss's first gradient is below scikit-learn's tolerance, where nothing would move."""
    centres = np.random.default_rng(0).normal(size=(300, 64))
    labels = np.arange(1200) % 300
    rows = centres[labels] + 0.3 * np.random.default_rng(1).normal(size=(1200, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = fit(rows[:600], labels[:600], 300, 1e-3)
    assert found.iterations > 3 and found.accuracy(rows[600:], labels[600:]) > 0.95
