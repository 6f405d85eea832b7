"""Logistic regression beside scikit-learn's: several classes, two, and several an image."""

from __future__ import annotations

import numpy as np
import pytest
from blobs import CLASSES, TEST, TRAIN, blobs, theirs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from clipperf.errors import UsageError
from clipperf.evals.logistic import ITERATIONS, Linear, fit


@pytest.mark.parametrize("strength", [0.1, 3.0, 100.0])
def test_a_classifier_is_scikit_learns(strength: float) -> None:
    ours, own = fit(*TRAIN, CLASSES, strength), theirs(TRAIN, strength)
    assert ours.weights == pytest.approx(own.coef_, abs=3e-3 * np.abs(own.coef_).max())
    assert ours.scores(TEST[0]).argmax(axis=1).tolist() == own.predict(TEST[0]).tolist()
    assert 0 < ours.iterations <= 1000
    again = fit(*TRAIN, CLASSES, strength, fit(*TRAIN, CLASSES, 1.0))
    assert again.weights == pytest.approx(ours.weights, abs=3e-3 * np.abs(own.coef_).max())


def test_what_cannot_be_trained_on() -> None:
    features, labels = TRAIN
    with pytest.raises(UsageError, match="250 labels for features of shape"):
        fit(features[:9], labels, CLASSES, 1.0)
    with pytest.raises(UsageError, match="label 4, but there are only 3 classes"):
        fit(features, labels, 3, 1.0)
    with pytest.raises(UsageError, match="not a finite number"):
        fit(np.where(features > 1, np.nan, features), labels, CLASSES, 1.0)
    with pytest.raises(UsageError, match=r"strength of 0\.0 is no penalty"):
        fit(features, labels, CLASSES, 0.0)


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


# --- the minimum, from anywhere ----------------------------------------------------------------

ENDS = [1e-6, 1e-3, 1.0, 1e3, 1e6]


@pytest.mark.parametrize("strength", ENDS)
@pytest.mark.parametrize("classes", [2, 4])
def test_the_same_is_found_from_anywhere(strength: float, classes: int) -> None:
    """24 images of 64 values, float32, beside scikit-learn's minimum in float64."""
    (rows, labels), (own, _) = wide(24, 1, classes), wide(200, 2, classes)
    found = fit(rows, labels, classes, strength)
    scores = found.scores(own)
    spread = scores.std(axis=0).max()
    minimum = theirs((rows.astype(float), labels), strength)
    assert found.accuracy(own, minimum.predict(own.astype(float))) == 1
    rng, shape = np.random.default_rng(0), found.weights.shape
    size = float(np.linalg.norm(found.weights)) / np.sqrt(found.weights.size)
    starts = [fit(rows, labels, classes, other) for other in ENDS]
    for scale in (size, 1.0, 30.0):
        weights = (scale * rng.normal(size=shape)).astype(np.float32)
        starts.append(Linear(weights, scale * rng.normal(size=classes), strength, 1))
    starts.append(Linear(found.weights, found.biases + 0.3 * np.arange(classes), strength, 1))
    for start in starts:
        again = fit(rows, labels, classes, strength, start)
        assert again.scores(own) == pytest.approx(scores, abs=5e-3 * spread)
        assert (again.scores(own).argmax(axis=1) == scores.argmax(axis=1)).all()
        assert again.iterations < ITERATIONS


@pytest.mark.parametrize("strength", [1e-6, 1e6])
def test_scikit_learns_tolerance_stops_short_of_what_its_newton_finds(strength: float) -> None:
    ours = short = 0
    for seed in range(10):
        (rows, labels), (own, _) = (
            blobs(n, 100 * n + seed, classes=3, noise=2.0) for n in (24, 18)
        )
        rows, own = (10 * x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, own))
        minimum = theirs((rows, labels), strength).predict(own)
        usual = LogisticRegression(C=1 / strength, max_iter=1000).fit(rows, labels)
        ours += int((fit(rows, labels, 3, strength).scores(own).argmax(axis=1) != minimum).sum())
        short += int((usual.predict(own) != minimum).sum())
    assert ours == 0 < short


def wide(n: int, seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Clouds away from the origin, of length 10, as embeddings are."""
    centres = np.random.default_rng(0).normal(size=(classes + 1, 64))
    labels = np.arange(n) % classes
    rows = centres[labels] + 2 * centres[-1] + np.random.default_rng(seed).normal(size=(n, 64))
    return (10 * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def test_under_the_strongest_penalty_biases_are_the_shares_of_the_classes() -> None:
    rows, _ = wide(60, 1, 3)
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    for start in (None, fit(rows, labels, 3, 1e3), fit(rows, labels, 3, 1e-3)):
        found = fit(rows, labels, 3, 1e6, start)
        # log (30 / 10) and log (20 / 10); weights of 1e-4 move logits by 1e-3 at most.
        logits = found.scores(rows).mean(axis=0)
        assert logits[:2] - logits[2] == pytest.approx([1.0986, 0.6931], abs=1e-3)
        assert found.biases[:2] - found.biases[2] == pytest.approx([1.0986, 0.6931], abs=5e-3)
    two = fit(rows, (labels == 2).astype(int), 2, 1e6)
    assert two.biases[1] - two.biases[0] == pytest.approx(-1.6094, abs=5e-3)  # log (10 / 50)
    each = fit(rows, labels[:, None] == np.arange(3), 3, 1e6)
    # log (30 / 30), log (20 / 40), log (10 / 50)
    assert each.biases == pytest.approx([0, -0.6931, -1.6094], abs=5e-3)


def test_weights_of_a_penalty_without_end_are_known() -> None:
    """Images at 1 and -1, one each of two classes: weights are 1 / strength, and no bias."""
    found = fit(np.array([[1.0], [-1.0]]), np.array([1, 0]), 2, 1e6)
    # The gradient at 0 is -1 of both images; strength x weight makes up for it.
    assert (found.weights[1] - found.weights[0])[0] == pytest.approx(1e-6, rel=1e-3)
    assert found.biases == pytest.approx([0, 0], abs=1e-12)


def test_a_class_that_no_image_has_is_never_said() -> None:
    rows, labels = wide(40, 1, 4)
    found = fit(rows, labels, 6, 1.0)
    scores = found.scores(rows)
    assert (scores[:, 4:].max(axis=1) < scores[:, :4].min(axis=1) - 30).all()
    without = fit(rows, labels, 4, 1.0).scores(rows)
    assert scores[:, 1] - scores[:, 0] == pytest.approx(without[:, 1] - without[:, 0], abs=0.05)
    right = labels[:, None] == np.arange(6)
    assert (fit(rows, right, 6, 1.0).scores(rows)[:, 4:] < -30).all()
    assert fit(rows, np.zeros(40, int), 2, 1.0).iterations == 0


def test_iterations_are_those_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fit(*TRAIN, CLASSES, 1.0)
    assert 3 < found.iterations < 100
    assert fit(*TRAIN, CLASSES, 1.0, found).iterations == 0
    monkeypatch.setattr("clipperf.evals.logistic.ITERATIONS", 3)
    short = fit(*TRAIN, CLASSES, 1.0)
    assert short.iterations == 3
    assert np.abs(short.weights - found.weights).max() > 1e-2 * np.abs(found.weights).max()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(*TRAIN, CLASSES, 1.0)
    monkeypatch.setattr("clipperf.evals.logistic.BLOCK_BYTES", 1)  # 64 images, the least
    parts = fit(*TRAIN, CLASSES, 1.0)
    assert parts.weights == pytest.approx(whole.weights, rel=1e-6, abs=1e-9)
    right = TRAIN[1][:, None] == np.arange(CLASSES)
    each = fit(TRAIN[0], right, CLASSES, 1.0)
    monkeypatch.undo()
    assert each.weights == pytest.approx(fit(TRAIN[0], right, CLASSES, 1.0).weights, abs=1e-9)


def test_a_loss_is_scikit_learns() -> None:
    for classes in (2, 5):
        train, own = blobs(120, 1, classes=classes), blobs(60, 2, classes=classes)
        found, other = fit(*train, classes, 1.0), theirs(train, 1.0)
        expected = log_loss(own[1], other.predict_proba(own[0]))
        assert found.loss(*own) == pytest.approx(expected, rel=1e-3)
