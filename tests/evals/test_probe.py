"""Linear probes beside scikit-learn's, the search by hand, and few shots."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.evals.metric import measured
from clipperf.evals.probe import (
    FEW_SHOT_STRENGTH,
    FIRST_STEPS,
    STRENGTHS,
    drawn,
    few_shot,
    fit,
    held_out,
    probe,
    search,
)

CLASSES, DIM = 5, 12


def blobs(n: int, seed: int, noise: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(0).normal(size=(CLASSES, DIM))
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    return centres[labels] + noise * rng.normal(size=(n, DIM)), labels


TRAIN, VALIDATION, TEST = blobs(250, 1), blobs(150, 2), blobs(400, 3)


def theirs(data: tuple[np.ndarray, np.ndarray], strength: float) -> LogisticRegression:
    return LogisticRegression(C=1 / strength, max_iter=1000).fit(*data)


def test_strengths_and_first_steps() -> None:
    assert len(STRENGTHS) == 97 and STRENGTHS[8] / STRENGTHS[0] == pytest.approx(10)
    assert STRENGTHS[list(FIRST_STEPS)] == pytest.approx([1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])


@pytest.mark.parametrize("strength", [0.1, 3.0, 100.0])
def test_a_classifier_is_scikit_learns(strength: float) -> None:
    ours, own = fit(*TRAIN, CLASSES, strength), theirs(TRAIN, strength)
    assert ours.weights == pytest.approx(own.coef_, abs=3e-3 * np.abs(own.coef_).max())
    assert ours.scores(TEST[0]).argmax(axis=1).tolist() == own.predict(TEST[0]).tolist()
    assert 0 < ours.iterations <= 1000
    again = fit(*TRAIN, CLASSES, strength, fit(*TRAIN, CLASSES, 1.0))
    assert again.weights == pytest.approx(ours.weights, abs=3e-3 * np.abs(own.coef_).max())


def test_the_whole_sweep_is_scikit_learns() -> None:
    found = probe(*TRAIN, CLASSES, VALIDATION)
    step, tried = search(lambda step: float(theirs(TRAIN, STRENGTHS[step]).score(*VALIDATION)))
    assert found.linear.strength == pytest.approx(STRENGTHS[step])
    assert found.tried == pytest.approx(tried)
    both = np.concatenate([TRAIN[0], VALIDATION[0]]), np.concatenate([TRAIN[1], VALIDATION[1]])
    expected = theirs(both, STRENGTHS[step]).score(*TEST)
    assert found.linear.accuracy(*TEST) == pytest.approx(expected)
    rows = {row.metric: row for row in measured(found.ranked(*TEST))}
    assert rows["linear probe top-1"].value == pytest.approx(expected)
    assert {"linear probe mean per-class recall"} < rows.keys()


@pytest.mark.parametrize("peak", [0, 5, 48, 61, 96])
def test_the_search_finds_a_peak_in_fifteen_tries(peak: int) -> None:
    asked: list[int] = []

    def score(step: int) -> float:
        asked.append(step)
        return -abs(step - peak)

    best, tried = search(score)
    assert best == peak and tried[peak] == 0
    assert len(asked) == len(set(asked)) <= 7 + 2 * 4


def test_of_equal_strengths_the_strongest() -> None:
    best, _ = search(lambda step: 1.0 if step <= 50 else 0.0)
    assert best == 50


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2])
    held = held_out(labels)
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]
    assert (held == held_out(labels)).all()
    with pytest.raises(UsageError, match="give a validation split"):
        held_out(np.arange(4))
    found = probe(*TRAIN, CLASSES)
    inner = held_out(TRAIN[1])
    own = fit(TRAIN[0][~inner], TRAIN[1][~inner], CLASSES, 1.0)
    assert found.tried[48] == pytest.approx(own.accuracy(TRAIN[0][inner], TRAIN[1][inner]))


def test_few_shots() -> None:
    labels = TRAIN[1]
    one, four = drawn(labels, 1, 0), drawn(labels, 4, 0)
    assert np.bincount(labels[four]).tolist() == [4] * CLASSES
    assert set(one) < set(four) and set(one) != set(drawn(labels, 1, 1))
    found = few_shot(*TRAIN, CLASSES, TEST, shots=(1, 16), repeats=4)
    assert [row.shots for row in found] == [1, 16]
    assert found[0].accuracy < found[1].accuracy <= 1
    first = found[1]
    # Student's t of three degrees of freedom: 3.182 standard errors.
    reach = 3.18245 * np.std(first.accuracies, ddof=1) / 2
    assert first.interval == pytest.approx((first.accuracy - reach, first.accuracy + reach))
    (alone,) = few_shot(*TRAIN, CLASSES, TEST, VALIDATION, shots=(2,), repeats=1)
    assert alone.interval is None and alone.accuracies[0] > 0.3
    with pytest.raises(UsageError, match="51 shots, and a class has 50 samples"):
        few_shot(*TRAIN, CLASSES, TEST, shots=(51,))


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
    assert 3.16 < FEW_SHOT_STRENGTH < 3.17
