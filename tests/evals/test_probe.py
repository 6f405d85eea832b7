"""Linear probes beside scikit-learn's own sweep, the search by hand, what is held out."""

from __future__ import annotations

import numpy as np
import pytest
from blobs import CLASSES, TEST, TRAIN, VALIDATION, blobs, theirs, theirs_scored

from clipperf.errors import UsageError
from clipperf.evals.logistic import fit
from clipperf.evals.precision import eleven_point
from clipperf.evals.probe import FIRST_STEPS, STRENGTHS, Probe, held_out, probe, search


def test_strengths_and_first_steps() -> None:
    assert len(STRENGTHS) == 97 and STRENGTHS[8] / STRENGTHS[0] == pytest.approx(10)
    assert STRENGTHS[list(FIRST_STEPS)] == pytest.approx([1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])


def test_the_whole_sweep_is_scikit_learns() -> None:
    found = probe(*TRAIN, CLASSES, VALIDATION)
    step, tried = search(lambda step: theirs_scored(TRAIN, STRENGTHS[step], VALIDATION))
    assert found.linear.strength == pytest.approx(STRENGTHS[step])
    assert found.tried == pytest.approx(tried)
    both = np.concatenate([TRAIN[0], VALIDATION[0]]), np.concatenate([TRAIN[1], VALIDATION[1]])
    expected = theirs(both, STRENGTHS[step]).score(*TEST)
    assert found.linear.accuracy(*TEST) == pytest.approx(expected)


@pytest.mark.parametrize("peak", [0, 5, 48, 61, 96])
def test_the_search_finds_a_peak_in_fifteen_tries(peak: int) -> None:
    asked: list[int] = []

    def score(step: int) -> tuple[float, float]:
        asked.append(step)
        return -abs(step - peak), 0.0

    best, tried = search(score)
    assert best == peak and tried[peak] == 0
    assert len(asked) == len(set(asked)) <= 7 + 2 * 4


def test_of_equal_strengths_the_likeliest() -> None:
    best, tried = search(lambda step: (1.0 if 20 <= step <= 90 else 0.0, -abs(step - 43)))
    assert best == 43 and tried[43] == tried[80] == 1


def test_of_equal_strengths_as_scikit_learn_has_their_losses() -> None:
    """Clouds far apart: every strength is right, the least loss is the weakest penalty's."""
    train, own = blobs(60, 1, classes=3, noise=0.1), blobs(30, 2, classes=3, noise=0.1)
    found = probe(*train, 3, own)
    step, tried = search(lambda step: theirs_scored(train, STRENGTHS[step], own))
    assert found.tried == tried and set(tried.values()) == {1.0}
    assert found.linear.strength == STRENGTHS[step] < 1e-5


def few(noise: float, seed: int) -> tuple[float, Probe]:
    """The figure of 18 test images of a probe on 24, both with embeddings that are off by noise."""
    train, test = blobs(24, 11, classes=2, noise=1.0), blobs(18, 1011, classes=2, noise=1.0)
    rng = np.random.default_rng(seed)
    rows, own = (
        (10 * unit + noise * rng.normal(size=unit.shape)).astype(np.float32)
        for unit in (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train[0], test[0]))
    )
    found = probe(rows, train[1], 2)
    return found.linear.accuracy(own, test[1]), found


def test_a_figure_of_few_images_stays_with_the_last_digits_of_embeddings() -> None:
    figure, found = few(0.0, 0)
    for seed in range(5):
        again, other = few(1e-6, seed)
        assert (again, other.linear.strength) == (figure, found.linear.strength)
        assert other.tried == found.tried


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


def test_classes_of_which_an_image_has_several_are_searched_by_their_precision() -> None:
    features, labels = TRAIN
    right = np.stack([labels == c for c in range(3)], axis=1)
    right[:, 2] |= features[:, 0] > 0.5
    found = probe(features, right, 3)
    held = held_out(right)
    # A fifth of those with a class, and of those without.
    some = right.any(axis=1)
    assert [int(held[some].sum()), int(held[~some].sum())] == [
        round(some.sum() / 5),
        round((~some).sum() / 5),
    ]
    assert found.linear.weights.shape == (3, features.shape[1]) and len(found.tried) == 15
    for step in (32, 64):
        strength = STRENGTHS[step]
        figures = [
            eleven_point(
                theirs((features[~held], right[~held, c]), strength).decision_function(
                    features[held]
                ),
                right[held, c],
            )
            for c in range(3)
        ]
        assert found.tried[step] == pytest.approx(np.mean(figures), abs=5e-3)
    assert found.best == max(found.tried.values())


def test_something_with_a_class_is_held_out_however_few_have_one() -> None:
    for seed in range(20):
        right = np.zeros((100, 2), bool)
        right[np.random.default_rng(seed).choice(100, 2, replace=False), 1] = True
        held = held_out(right)
        assert right[held].sum() == right[~held].sum() == 1
    assert np.isfinite(probe(TRAIN[0][:100], right, 2).best)
    right[:] = False
    right[3, 0] = True
    with pytest.raises(UsageError, match="no image to search the strength on has a class"):
        held_out(right)
