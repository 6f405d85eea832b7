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


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 50, 0.0, 0.07112),  # 1 - 0.025^(1/50)
        (0, 300, 0.0, 0.01222),
        (50, 50, 0.92888, 1.0),
        (4, 20, 0.05733, 0.43661),  # tables of Clopper and Pearson
        (1, 2, 0.01258, 0.98742),
        (2500, 5000, 0.48604, 0.51396),
    ],
)
def test_clopper_pearson(hits: int, n: int, low: float, high: float) -> None:
    assert stats.clopper_pearson_interval(hits, n) == pytest.approx((low, high), abs=1e-5)


def test_clopper_pearson_of_other_levels_and_fractions() -> None:
    low, high = stats.clopper_pearson_interval(4, 20, level=0.995)
    assert (low, high) == pytest.approx((0.02946, 0.53271), abs=1e-5)
    whole = [stats.clopper_pearson_interval(hits, 20) for hits in (4, 4.5, 5)]
    assert whole == sorted(whole)
    for hits, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="no share"):
            stats.clopper_pearson_interval(hits, n)


def test_the_binomial_distribution_and_mcnemar() -> None:
    assert stats.binomial_at_most(1, 4, 0.5) == pytest.approx(5 / 16)
    assert stats.binomial_at_most(0, 3, 0.2) == pytest.approx(0.512)
    assert stats.binomial_at_most(4, 4, 0.5) == 1
    exact = sum(math.comb(100, k) for k in range(41)) / 2**100
    assert stats.mcnemar_p(40, 60) == pytest.approx(2 * exact, rel=1e-12)
    assert stats.mcnemar_p(4, 0) == pytest.approx(1 / 8)
    assert stats.mcnemar_p(0, 100) == pytest.approx(2 * 0.5**100, rel=1e-9, abs=0), "small"
    assert stats.binomial_at_most(0, 60, 0.9) == pytest.approx(0.1**60, rel=1e-9, abs=0)
    assert (stats.binomial_at_most(1, 4, 0.0), stats.binomial_at_most(1, 4, 1.0)) == (1, 0)
    assert stats.mcnemar_p(0, 0) == stats.mcnemar_p(3, 3) == 1


def test_the_interval_of_a_paired_difference() -> None:
    # No flips: the bound of Clopper and Pearson to both sides.
    assert stats.paired_share_interval(0, 0, 50) == pytest.approx((-0.07112, 0.07112), abs=1e-5)
    assert stats.paired_share_interval(0, 0, 300)[0] == pytest.approx(-0.01222, abs=1e-5)
    # Four flips of one kind do not exclude 0, six do, as in McNemar's test (1/8, 1/32).
    assert stats.paired_share_interval(0, 4, 100)[1] > 0 and stats.mcnemar_p(4, 0) > 0.05
    assert stats.paired_share_interval(0, 6, 100)[1] < 0 and stats.mcnemar_p(6, 0) < 0.05
    assert stats.paired_share_interval(50, 50, 50)[0] >= -1
    # Of many it is the normal one: 300 and 200 of 10 000, 1 +- 1.96 sqrt(0.05 - 0.0001) / 100.
    low, high = stats.paired_share_interval(300, 200, 10_000)
    assert (low, high) == pytest.approx((0.0056, 0.0144), abs=3e-4)


@pytest.mark.parametrize("n", [10, 50, 372])
def test_the_interval_of_a_paired_difference_holds_its_level(n: int) -> None:
    """All outcomes of n pairs, weighed: no coverage below 95 %, no side missed by over 2.5 %."""
    import numpy as np

    most = min(n, 30)
    counts = [(up, down) for up in range(most + 1) for down in range(most + 1) if up + down <= n]
    limits = np.array([stats.paired_share_interval(up, down, n) for up, down in counts])
    up, down = np.array(counts).T
    ways = np.array(
        [
            math.lgamma(n + 1)
            - math.lgamma(u + 1)
            - math.lgamma(d + 1)
            - math.lgamma(n - u - d + 1)
            for u, d in counts
        ]
    )
    rates = [1e-9, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4]
    for gain in rates:
        for loss in rates:
            if (gain + loss) * n > 12 or gain + loss >= 1:
                continue
            rest = math.log(1 - gain - loss)
            seen = up * math.log(gain) + down * math.log(loss) + (n - up - down) * rest
            chance = np.exp(ways + seen)
            above, below = limits[:, 0] > gain - loss, limits[:, 1] < gain - loss
            assert chance[above].sum() < 0.0251 and chance[below].sum() < 0.0251
            assert chance[above | below].sum() < 0.05


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


def test_an_interval_of_a_share_needs_samples() -> None:
    with pytest.raises(ValueError, match="no samples"):
        stats.wilson_interval(0, -1)
    assert stats.wilson_interval(1, 1) == pytest.approx((1 / 4.8416, 1.0), abs=1e-4)


def test_students_t_as_in_its_tables() -> None:
    for freedom, t in ((1, 12.706), (5, 2.5706), (30, 2.0423), (1000, 1.9623)):
        assert stats.t_quantile(freedom) == pytest.approx(t, rel=1e-4)
    assert stats.t_quantile(5, 0.99) == pytest.approx(4.0321, rel=1e-4)


def test_intervals_of_two_figures_become_that_of_their_difference() -> None:
    # down hypot(0.1, 0.04) = 0.1077, up hypot(0.2, 0.03) = 0.2022
    found = stats.recovered_interval(0.2, (0.5, (0.4, 0.7)), (0.3, (0.27, 0.34)))
    assert found == pytest.approx((0.0923, 0.4022), abs=1e-4)


def test_a_line_of_least_squares_by_hand() -> None:
    # Means 2.5 and 4.5, products 8, squares 5.
    assert stats.fitted_line([1, 2, 3, 4], [2, 4, 5, 7]) == pytest.approx((0.5, 1.6))
    assert stats.fitted_line([1, 3], [5, 1]) == pytest.approx((7.0, -2.0))
    for x, y in (([], []), ([2, 2], [1, 3]), ([1, 2], [1])):
        with pytest.raises(ValueError, match="no line"):
            stats.fitted_line(x, y)


def test_how_far_a_further_value_lies_from_a_line() -> None:
    """x 1 to 4 with residuals -1, 3, -3, 1: standard error sqrt(20 / 2), x = 10 is 7.5 off 2.5."""
    reach = stats.reach_of([(1, x) for x in (1, 2, 3, 4)], [-1, 3, -3, 1])
    assert reach.spread == pytest.approx(4.302653 * math.sqrt(10), rel=1e-6)
    assert reach.at((1, 10)) == pytest.approx(reach.spread * math.sqrt(1 + 1 / 4 + 7.5**2 / 5))
    with pytest.raises(ValueError, match="2 values say nothing beyond 2 terms"):
        stats.reach_of([(1, 1), (1, 2)], [0, 0])
