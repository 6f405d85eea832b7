"""Few shots: what is drawn, what it is trained with, and intervals of both kinds of chance."""

from __future__ import annotations

import numpy as np
import pytest
from blobs import CLASSES, TEST, TRAIN, VALIDATION, theirs

from clipperf.errors import UsageError
from clipperf.evals.outcome import SHARE, MeanGap, Outcome
from clipperf.evals.shots import (
    drawn,
    few_shot,
    most_shots,
    over_repeats,
    shots_equal_to,
    student,
)


def test_draws_nest_and_differ() -> None:
    labels = TRAIN[1]
    one, four = drawn(labels, 1, 0), drawn(labels, 4, 0)
    assert np.bincount(labels[four]).tolist() == [4] * CLASSES
    assert set(one) < set(four) and set(one) != set(drawn(labels, 1, 1))


def test_a_draw_is_trained_with_the_strength_for_its_length() -> None:
    own = drawn(TRAIN[1], 4, 2)
    few = TRAIN[0][own], TRAIN[1][own]
    expected = (1 / 0.316) * float((few[0] ** 2).sum(axis=1).mean()) / 100
    found = few_shot(*TRAIN, CLASSES, 4, 2).linear
    assert found.strength == pytest.approx(expected)
    assert found.accuracy(*TEST) == pytest.approx(theirs(few, expected).score(*TEST))
    # The same features at another scale are answered alike.
    scaled = few_shot(TRAIN[0] / 50, TRAIN[1], CLASSES, 4, 2).linear
    assert scaled.accuracy(TEST[0] / 50, TEST[1]) == pytest.approx(found.accuracy(*TEST), abs=0.01)
    more = few_shot(*TRAIN, CLASSES, 16, 2).linear
    assert more.accuracy(*TEST) > few_shot(*TRAIN, CLASSES, 1, 2).linear.accuracy(*TEST)


def test_a_draw_is_searched_on_a_validation_split() -> None:
    own = drawn(TRAIN[1], 2, 0)
    few = TRAIN[0][own], TRAIN[1][own]
    found = few_shot(*TRAIN, CLASSES, 2, 0, VALIDATION)
    assert len(found.tried) >= 11
    assert found.tried[48] == pytest.approx(theirs(few, 1.0).score(*VALIDATION), abs=0.01)


def test_more_shots_than_there_are() -> None:
    assert most_shots(TRAIN[1], CLASSES) == 50 and most_shots(TRAIN[1], CLASSES + 1) == 0
    with pytest.raises(UsageError, match="51 shots, and a class has 50 samples"):
        few_shot(*TRAIN, CLASSES, 51, 0)


def outcome(hits: np.ndarray) -> Outcome:
    return Outcome("1-shot top-1", "image", SHARE, hits, hits, np.zeros(len(hits), int), 0.2)


def test_an_interval_has_both_kinds_of_chance() -> None:
    rng = np.random.default_rng(0)
    draws = [rng.random(200) < p for p in (0.5, 0.6, 0.7)]
    both = over_repeats([outcome(hits) for hits in draws])
    means = [float(hits.mean()) for hits in draws]
    assert both.value == pytest.approx(np.mean(means)) and len(both.values) == 200
    # Student's t of two degrees of freedom: 4.303 standard errors.
    reach = 4.30265 * np.std(means, ddof=1) / np.sqrt(3)
    assert student(means) == pytest.approx(reach) and student(means[:1]) == 0
    below = np.mean([m - outcome(h).interval[0] for m, h in zip(means, draws, strict=True)])
    assert both.value - both.interval[0] == pytest.approx(np.hypot(below, reach))
    alone = over_repeats([outcome(draws[0])])
    assert alone.interval == pytest.approx(outcome(draws[0]).interval)


def test_draws_are_compared_one_by_one() -> None:
    rng = np.random.default_rng(1)
    draws = [rng.random(100) < p for p in (0.2, 0.5, 0.8)]
    ours = over_repeats([outcome(hits) for hits in draws])
    # The same answers: however much draws differ, models do not; but few samples may miss some.
    low, high = ours.gap(ours).interval()
    assert (low, high) == pytest.approx(MeanGap(0, 0, 100).interval(), abs=1e-6) and low < 0
    worse = [hits.copy() for hits in draws]
    for hits in worse:
        hits[np.flatnonzero(hits)[:5]] = False
    theirs_ = over_repeats([outcome(hits) for hits in worse])
    gap = ours.gap(theirs_)
    low, high = gap.interval()
    assert low < 0.05 < high and high - low < 0.2  # their spread of 0.6 is not in it
    assert ours.flips(theirs_) == len(
        {int(i) for a, b in zip(draws, worse, strict=True) for i in np.flatnonzero(a != b)}
    )
    assert ours.mcnemar_p(theirs_) is None
    wide = gap.interval(100)
    assert wide[1] - wide[0] < high - low


def test_intervals_of_draws_cover_what_they_are_of() -> None:
    """Of many trials with other draws and other tests, at least 95 % cover the expected figure."""
    rng = np.random.default_rng(0)
    covered, trials = 0, 400
    for _ in range(trials):
        levels = np.clip(rng.normal(0.6, 0.04, size=4), 0, 1)
        both = over_repeats([outcome(rng.random(150) < level) for level in levels])
        low, high = both.interval
        covered += low <= 0.6 <= high
    assert covered / trials > 0.93


def test_how_many_shots_a_figure_is_worth() -> None:
    shots, figures = (1, 2, 4, 8), (0.2, 0.4, 0.6, 0.6)
    assert shots_equal_to(0.5, shots, figures) == "about 2.8"  # 2 times 2 to the 1/2
    assert shots_equal_to(0.6, shots, figures) == "about 4.0"
    assert shots_equal_to(0.1, shots, figures) == "at most 1"
    assert shots_equal_to(0.61, shots, figures) == "more than 8"
