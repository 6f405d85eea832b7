"""Expectations worked out by hand or taken from the tables of the cited sources."""

import math

import pytest

from clipperf import stats


def test_median_of_odd_and_even_counts() -> None:
    assert stats.median([3.0, 1.0, 2.0]) == 2.0
    assert stats.median([4.0, 1.0, 2.0, 3.0]) == 2.5
    with pytest.raises(ValueError, match="no samples"):
        stats.median([])


def test_quantile_needs_enough_samples() -> None:
    assert stats.quantile(list(range(661)), 0.99) is None
    # Linear interpolation at position 0.99 * 661 = 654.39 of 0..661.
    assert stats.quantile(list(range(662)), 0.99) == pytest.approx(654.39)
    assert stats.quantile(list(range(63)), 0.90) is None
    assert stats.quantile(list(range(64)), 0.90) == pytest.approx(56.7)
    assert stats.quantile([5.0], 0.5) == 5.0


def test_quantile_rule_for_other_quantiles() -> None:
    # (1 - q) * n >= 6.5: 26 samples for q = 0.75.
    assert stats.quantile(list(range(25)), 0.75) is None
    assert stats.quantile(list(range(26)), 0.75) == pytest.approx(18.75)


def test_median_interval_by_order_statistics() -> None:
    assert stats.median_interval([1.0] * 5) is None
    # n = 6: z sqrt(n) = 4.80; low = max(1, floor(0.6)) = 1, high = min(6, ceil(6.4)) = 6.
    assert stats.median_interval([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == (1.0, 6.0)
    # n = 100: z sqrt(n) = 19.6; low = floor(40.2) = 40, high = ceil(60.8) = 61 (textbook values).
    assert stats.median_interval([float(i) for i in range(1, 101)]) == (40.0, 61.0)


def test_median_interval_covers_the_median_in_95_percent_of_draws() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        low, high = stats.median_interval(rng.exponential(size=31).tolist()) or (0, 0)
        hits += low <= math.log(2) <= high
    assert hits >= 940


def test_relative_width() -> None:
    assert stats.relative_width([1.0] * 5) == math.inf
    assert stats.relative_width([2.0] * 6) == 0.0
    assert stats.relative_width([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(5 / 3.5)
    assert stats.relative_width([]) == math.inf
    assert stats.relative_width([0.0] * 10) == math.inf


def test_paired_ratio_is_a_speed_up_of_the_first() -> None:
    ratio, interval = stats.paired_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert (ratio, interval) == (2.0, None)
    # Drift that both share cancels, though the raw times grow eightfold.
    ours = [0.01 * 2**i for i in range(8)]
    ratio, interval = stats.paired_ratio(ours, [2 * s for s in ours])
    assert ratio == pytest.approx(2.0)
    assert interval == pytest.approx((2.0, 2.0))
    with pytest.raises(ValueError, match="pairs"):
        stats.paired_ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="pairs"):
        stats.paired_ratio([], [])


def test_block_medians() -> None:
    assert stats.block_medians([5.0, 1.0, 3.0, 10.0], [1, 0, 0, 1]) == {0: 2.0, 1: 7.5}
    with pytest.raises(ValueError):
        stats.block_medians([1.0], [])


def test_wilson_interval_against_published_values() -> None:
    # Newcombe 1998, table I, method 3: 81/263 -> 0.2553 to 0.3662; 0/20 -> 0 to 0.1611;
    # 29/29 -> 0.8830 to 1.
    assert stats.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert stats.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert stats.wilson_interval(29, 29) == pytest.approx((0.8830, 1.0), abs=1e-4)
    with pytest.raises(ValueError):
        stats.wilson_interval(0, 0)


def test_paired_difference_interval() -> None:
    assert stats.paired_difference_interval([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]) == (0.0, 0.0)
    assert stats.paired_difference_interval([1.0, 1.0], [0.0, 0.0]) == (1.0, 1.0)
    # 50 of 100 pairs differ by 1: mean 0.5, standard error 0.05, so about 0.4 to 0.6.
    low, high = stats.paired_difference_interval([1.0] * 50 + [0.0] * 50, [0.0] * 100)
    assert low == pytest.approx(0.40, abs=0.02)
    assert high == pytest.approx(0.60, abs=0.02)
    assert (low, high) == stats.paired_difference_interval([1.0] * 50 + [0.0] * 50, [0.0] * 100)
    with pytest.raises(ValueError, match="pairs"):
        stats.paired_difference_interval([1.0], [])


def test_other_quantiles_round_the_number_of_samples_up() -> None:
    # 6.5 / 0.2 = 32.5: 33 samples, at either end.
    for q in (0.2, 0.8):
        assert stats.quantile(list(range(32)), q) is None
        assert stats.quantile(list(range(33)), q) == pytest.approx(32 * q)
    assert stats.quantile(list(range(129)), 0.95) is None
    assert stats.quantile(list(range(130)), 0.95) == pytest.approx(0.95 * 129)
    assert stats.quantile([], 0.5) is None


@pytest.mark.parametrize(("n", "low", "high"), [(7, 1, 7), (10, 1, 10), (20, 5, 16), (49, 17, 33)])
def test_places_of_the_median_interval(n: int, low: int, high: int) -> None:
    # (20 - 1.96 sqrt 20) / 2 = 5.6 and 1 + (20 + 1.96 sqrt 20) / 2 = 15.4;
    # (49 - 13.72) / 2 = 17.6 and 1 + (49 + 13.72) / 2 = 32.4.
    samples = [float(i) for i in range(n, 0, -1)]
    assert stats.median_interval(samples) == (low, high)


def test_a_wider_interval_for_more_certainty() -> None:
    samples = [float(i) for i in range(1, 101)]
    # (100 - 10 z) / 2 and 1 + (100 + 10 z) / 2 with z = 3.
    assert stats.median_interval(samples, 3.0) == (35.0, 66.0)
    # Half right with z = 1 of n = 3: centre 0.5, half width sqrt(1/12 + 1/36) / (4/3) = 1/4.
    assert stats.wilson_interval(1, 2, 1.0) == pytest.approx((0.2113, 0.7887), abs=1e-4)


def test_relative_width_of_negative_times() -> None:
    assert stats.relative_width([-1.0] * 6) == math.inf
    assert stats.relative_width([0.5] * 6) == 0.0


def test_blocks_are_in_order() -> None:
    assert list(stats.block_medians([1.0, 2.0, 3.0], [2, 0, 1])) == [0, 1, 2]
    with pytest.raises(ValueError):
        stats.block_medians([1.0, 2.0], [1])


def test_unequal_pairs_are_refused_either_way() -> None:
    for pair in (([1.0, 2.0], [1.0]), ([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match=f"{len(pair[0])} against {len(pair[1])}"):
            stats.paired_ratio(*pair)
        with pytest.raises(ValueError, match=f"{len(pair[0])} against {len(pair[1])}"):
            stats.paired_difference_interval(*pair)


def test_an_interval_of_a_share_needs_samples() -> None:
    with pytest.raises(ValueError, match="no samples"):
        stats.wilson_interval(0, -1)
    assert stats.wilson_interval(1, 1) == pytest.approx((1 / 4.8416, 1.0), abs=1e-4)


def test_the_bootstrap_is_two_thousand_draws_of_seed_0() -> None:
    import numpy as np

    ours, theirs = np.random.default_rng(7).random((2, 40)).tolist()
    gaps = np.array(ours) - np.array(theirs)
    rng = np.random.default_rng(0)
    means = [gaps[rng.integers(0, 40, 40)].mean() for _ in range(2000)]
    usual = stats.paired_difference_interval(ours, theirs)
    assert usual == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)
    # One pair that differs from the others is doubt enough.
    low, high = stats.paired_difference_interval([1.0, 0.0, 0.0], [0.0] * 3)
    assert (low, high) == (0.0, 1.0)
    assert stats.paired_difference_interval([3.0, 5.0], [1.0, 3.0]) == (2.0, 2.0)
    assert stats.paired_difference_interval([5.0], [1.0]) == (4.0, 4.0)
