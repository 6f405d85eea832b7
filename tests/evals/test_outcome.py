"""Figures of samples and their intervals: by hand, and how often they hold the truth."""

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
    MeanGap,
    Outcome,
)
from clipperf.evals.resampling import ResampledGap, missed_by, resampled, unseen


def outcome(estimate: Estimate, values: list, groups: list[int]) -> Outcome:
    return Outcome("m", "image", estimate, np.array(values), np.array(values), np.array(groups), 0)


def hits(text: str, groups: list[int], estimate: Estimate) -> Outcome:
    return outcome(estimate, [letter == "x" for letter in text], groups)


def test_a_share() -> None:
    found = hits("xxx.", [0, 0, 1, 1], SHARE)
    assert found.value == 0.75
    assert found.interval == pytest.approx(stats.wilson_interval(3, 4))
    other = hits("x...", [0, 0, 1, 1], SHARE)
    gap = found.gap(other)
    assert gap.interval() == pytest.approx(stats.paired_share_interval(2, 0, 4))
    assert gap.interval(3) == pytest.approx(stats.paired_share_interval(6, 0, 12))
    assert other.gap(found).interval() == pytest.approx(tuple(-e for e in gap.interval()[::-1]))
    assert found.mcnemar_p(other) == pytest.approx(0.5)  # two heads of two tosses, or two tails


def test_which_samples_are_hits() -> None:
    """A bit each, the first one highest; what is no plain share of hits has none."""
    assert hits("xxx.x..xx", [0] * 9, SHARE).hits == "e980"
    assert hits("x.", [0, 1], SHARE_OF_GROUPS).hits == ""
    assert hits("x.", [0, 1], MEAN_OVER_CLASSES).hits == ""
    assert outcome(SHARE, [1, 0.5], [0, 0]).hits == ""


def test_a_mean_of_other_values_than_hits() -> None:
    found = outcome(SHARE, [1, 0.5, 0.25, 0.25], [0] * 4)
    assert found.value == 0.5 and found.mcnemar_p(found) is None
    # A variance of 3/32 in place of 1/4: worth (1/4 + 1/4) / (3/128 + 1/16) = 64/11 samples.
    assert found.interval == pytest.approx(stats.wilson_interval(32 / 11, 64 / 11))
    with pytest.raises(ValueError, match="from 0 to 1"):
        _ = outcome(SHARE, [1, 2.0], [0] * 2).interval


def test_a_share_of_groups() -> None:
    groups = [0, 0, 0, 1, 1, 1]
    together, apart = hits("xxx...", groups, SHARE_OF_GROUPS), hits("x..xx.", groups, SHARE)
    assert together.value == 0.5 == apart.value
    # Residuals of the groups are 3/2 each, so a variance of (9/2) / 36 and, with one more of two
    # groups, (1/4 + 1/2) / (1/8 + 1/4) = 2: two groups, as they are.
    assert together.interval == pytest.approx(stats.wilson_interval(1, 2))
    assert apart.interval == pytest.approx(stats.wilson_interval(3, 6))
    assert together.mcnemar_p(together) is None and apart.mcnemar_p(apart) == 1
    same = together.gap(together)
    assert same == MeanGap(0, 0, 2)
    assert same.interval() == pytest.approx((-(1 - 0.025**0.5), 1 - 0.025**0.5))


def test_a_mean_over_classes() -> None:
    found = hits("xx.x..", [0, 0, 0, 4, 4, 4], MEAN_OVER_CLASSES)
    assert found.value == pytest.approx((2 / 3 + 1 / 3) / 2)
    # Within: 2/3 each; of all: 1/4. Variance (2/3 + 1/4) / 9 * 2 / 4 = 11/216, unit 1/6.
    worth = (1 / 4 + 1 / 6) / (11 / 216 + 1 / 36)
    assert found.interval == pytest.approx(stats.wilson_interval(worth / 2, worth))
    none = found.gap(found)
    assert none.interval() == pytest.approx((-unseen(6), unseen(6)))
    # Classes weigh alike, however many samples they have; those without have no recall.
    uneven = hits("xx..", [0, 0, 0, 2], MEAN_OVER_CLASSES)
    assert uneven.value == pytest.approx(1 / 3)
    assert uneven.gap(uneven).interval()[1] == pytest.approx(unseen(4 / (1 / 3 + 1)))
    with pytest.raises(ValueError, match="no samples"):
        _ = outcome(MEAN_OVER_CLASSES, [], []).value


@pytest.mark.parametrize(
    ("estimate", "worth"),
    # Three groups of 2, 1 and 2 samples as groups, and as classes.
    [(SHARE, 5), (SHARE_OF_GROUPS, 25 / 9), (MEAN_OVER_CLASSES, 9 / 2)],
)
@pytest.mark.parametrize("right", [0, 1])
def test_agreement_leaves_the_doubt_of_few_samples(
    estimate: Estimate, worth: float, right: int
) -> None:
    found = outcome(estimate, [bool(right)] * 5, [0, 0, 3, 7, 7])
    assert found.interval == pytest.approx(stats.wilson_interval(worth * right, worth))
    assert found.gap(found).interval() == pytest.approx((-unseen(worth), unseen(worth)))


# --- how often intervals hold the truth ----------------------------------------------------


def held(draw: Callable[[], tuple[Outcome, Outcome]], truth: float, times: int) -> float:
    found = 0
    for _ in range(times):
        ours, theirs = draw()
        low, high = ours.gap(theirs).interval()
        found += low <= truth <= high
    return found / times


def flipped(rng: np.random.Generator, n: int, lost: float, gained: float) -> np.ndarray:
    """Hits of ours and theirs [2, n], of which so many shares are lost and gained."""
    draw, right = rng.random(n), rng.random(n) < 0.6
    right = np.where(draw < lost, True, np.where(draw < lost + gained, False, right))
    return np.stack([right ^ (draw < lost + gained), right])


@pytest.mark.parametrize(
    ("n", "loss", "once"), [(50, 0.02, 0.36), (100, 0.015, 0.22), (372, 0.011, 0.016)]
)
def test_few_flips_show_nothing(n: int, loss: float, once: float) -> None:
    """No flip is seen in `once` of all cases, and was taken for a proof that nothing is lost."""
    rng, draws = np.random.default_rng(0), 2000
    lost = (rng.random((draws, n)) < loss).sum(axis=1)
    assert np.mean(lost == 0) == pytest.approx(once, abs=0.02)
    bounds = np.array([MeanGap(0, k / n, n).interval()[0] for k in range(lost.max() + 1)])[lost]
    assert np.mean(bounds > -0.01) <= 0.025
    assert np.mean(bounds <= -loss) >= 0.97


CLASSES = [(1000, 1), (300, 2), (100, 3), (20, 20)]


@pytest.mark.parametrize(("classes", "each"), CLASSES)
def test_mean_per_class_recall_of_few_images_a_class(classes: int, each: int) -> None:
    """Drawing samples across classes gave 1,000 classes of one image a coverage of 0.89."""
    rng, draws = np.random.default_rng(1), 600
    recall = rng.beta(8, 2, classes)
    labels = np.repeat(np.arange(classes), each)
    found = 0
    for _ in range(draws):
        low, high = MEAN_OVER_CLASSES.interval(rng.random(len(labels)) < recall[labels], labels)
        found += low <= recall.mean() <= high
    assert found / draws > 0.93


@pytest.mark.parametrize("estimate", [SHARE, MEAN_OVER_CLASSES])
@pytest.mark.parametrize(("lost", "gained"), [(0.01, 0.0), (0.03, 0.02)])
def test_differences(estimate: Estimate, lost: float, gained: float) -> None:
    rng, labels = np.random.default_rng(2), np.repeat(np.arange(100), 3)

    def draw() -> tuple[Outcome, Outcome]:
        ours, theirs = flipped(rng, len(labels), lost, gained)
        both = (Outcome("m", "image", estimate, x, x, labels, 0) for x in (ours, theirs))
        return next(both), next(both)

    assert held(draw, gained - lost, 300) > 0.94


@pytest.mark.parametrize("together", [0.0, 0.7, 1.0])
def test_differences_of_captions_of_one_image(together: float) -> None:
    rng, images, captions = np.random.default_rng(3), 200, 5
    owner = np.repeat(np.arange(images), captions)

    def draw() -> tuple[Outcome, Outcome]:
        shared = flipped(rng, images, 0.03, 0.02)[:, owner]
        own = flipped(rng, images * captions, 0.03, 0.02)
        ours, theirs = np.where(rng.random(len(owner)) < together, shared, own)
        both = (Outcome("m", "text", SHARE_OF_GROUPS, x, x, owner, 0) for x in (ours, theirs))
        return next(both), next(both)

    assert held(draw, -0.01, 300) > 0.93


# --- figures that are no means -------------------------------------------------------------


def largest(values: np.ndarray, groups: np.ndarray) -> float:
    return float(max(values[groups == group].mean() for group in np.unique(groups)))


def test_other_figures_are_resampled() -> None:
    rng, groups = np.random.default_rng(4), np.repeat([0, 1], 200)
    values = (rng.random(400) < 0.5).astype(float)
    found = outcome(resampled(largest), values.tolist(), groups.tolist())
    low, high = found.interval
    assert low < found.value < high and 0.05 < high - low < 0.2
    assert found.interval == (low, high), "the same draws each time"
    other = outcome(resampled(largest), (values * 0.9).tolist(), groups.tolist())
    gap = other.gap(found)
    assert isinstance(gap, ResampledGap)
    assert gap.difference == pytest.approx(-0.1 * found.value)
    assert gap.interval()[0] < gap.difference < gap.interval()[1] <= -0.03


def test_no_resampled_interval_is_narrower_than_what_may_go_unseen() -> None:
    found = outcome(resampled(largest), [1.0] * 50, [0] * 50)
    assert found.interval == pytest.approx((1 - 0.07112, 1), abs=1e-5)
    gap = found.gap(found)
    assert gap.interval() == pytest.approx((-0.07112, 0.07112), abs=1e-5)
    assert gap.interval(10) == pytest.approx((-unseen(500), unseen(500)))
    wide = ResampledGap(-0.1, -0.3, 0.05, missed_by(1000))
    assert wide.interval(4) == pytest.approx((-0.2, -0.025))


def test_draws_without_a_value_are_left_out() -> None:
    def picky(values: np.ndarray, groups: np.ndarray) -> float:
        return float(values.mean()) if len(set(values)) > 1 else np.nan

    assert np.isfinite(outcome(resampled(picky), [0.0, 1.0], [0, 1]).interval).all()
    assert np.isnan(outcome(resampled(picky), [1.0, 1.0], [0, 1]).interval).any()
