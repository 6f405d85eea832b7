"""Medians, quantiles and intervals. Pure functions over plain sequences; no I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SAMPLES_FOR_QUANTILE = {0.50: 1, 0.90: 64, 0.95: 130, 0.99: 662}
"""Samples needed before a latency quantile is printed at 99 % confidence.

p90 and p99 are the query counts that MLPerf Inference derives for its early-stopping rule
(64 and 662); p95 interpolates the same rule, (1 - q) * n >= 6.5.
"""


def median(samples: Sequence[float]) -> float:
    """The median; raises ValueError on an empty sequence."""
    if not len(samples):
        raise ValueError("median of no samples")
    return float(np.median(np.asarray(samples, dtype=np.float64)))


def samples_for(q: float) -> int:
    """How many samples it takes to back the q-quantile; see MIN_SAMPLES_FOR_QUANTILE."""
    return MIN_SAMPLES_FOR_QUANTILE.get(q, math.ceil(6.5 / min(q, 1 - q)))


def quantile(samples: Sequence[float], q: float) -> float | None:
    """The q-quantile (linear interpolation), or None where too few samples back it."""
    if len(samples) < samples_for(q):
        return None
    return float(np.quantile(np.asarray(samples, dtype=np.float64), q))


def median_interval(samples: Sequence[float], z: float = 1.96) -> tuple[float, float] | None:
    """A 95 % confidence interval of the median, free of any distribution (order statistics).

    With n samples the interval runs from the order statistic floor((n - z sqrt(n)) / 2) to
    ceil(1 + (n + z sqrt(n)) / 2), counted from 1. None below 6 samples, where no such interval
    reaches 95 %.
    """
    n = len(samples)
    if n < 6:
        return None
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    low = max(1, math.floor((n - z * math.sqrt(n)) / 2))
    high = min(n, math.ceil(1 + (n + z * math.sqrt(n)) / 2))
    return float(ordered[low - 1]), float(ordered[high - 1])


def relative_width(samples: Sequence[float]) -> float:
    """Width of the median's interval over the median; infinite below 6 samples."""
    interval = median_interval(samples)
    if interval is None:
        return math.inf
    middle = median(samples)
    return (interval[1] - interval[0]) / middle if middle > 0 else math.inf


def paired_ratio(
    ours: Sequence[float], theirs: Sequence[float]
) -> tuple[float, tuple[float, float] | None]:
    """Median of theirs[i] / ours[i] over pairs taken in the same block, and its interval.

    For times this is a speed-up: 2.0 means that ours took half as long. Pairing cancels drift
    of the machine. The interval is None below 6 pairs.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"pairs needed: {len(ours)} against {len(theirs)} samples")
    ratios = np.asarray(theirs, dtype=np.float64) / np.asarray(ours, dtype=np.float64)
    return median(ratios.tolist()), median_interval(ratios.tolist())


def fitted_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The line y = start + slope * x with the least squares of residuals: (start, slope).

    Raises:
        ValueError: the sequences differ in length, or all x are equal.
    """
    if len(x) != len(y) or len(set(x)) < 2:
        raise ValueError(f"no line through {len(x)} and {len(y)} values, {len(set(x))} of x differ")
    middle_x, middle_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    together = math.fsum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    slope = together / math.fsum((a - middle_x) ** 2 for a in x)
    return middle_y - slope * middle_x, slope


def fitted_plane(points: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """z = start + a * x + b * y with the least squares of residuals, through (x, y, z).

    Returns (start, a, b). Raises ValueError where more than one plane fits.
    """
    found = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    known = np.column_stack((np.ones(len(found)), found[:, :2]))
    # Each column in its own scale: a batch is small beside its tokens.
    scale = np.maximum(np.abs(known).max(axis=0, initial=0.0), 1e-300)
    solved, _, rank, _ = np.linalg.lstsq(known / scale, found[:, 2], rcond=None)
    if rank < 3:
        raise ValueError(f"no plane through {len(found)} points: they lie on a line")
    start, a, b = (solved / scale).tolist()
    return start, a, b


@dataclass(frozen=True)
class Reach:
    """How far a further value lies from what a fit by least squares says of it, at 95 %.

    The prediction interval of linear regression (Draper and Smith, Applied Regression Analysis,
    section 1.4): `spread` is Student's t times the standard error of the residuals, `inverse` that
    of X'X, where each row of X has the terms of one value.
    """

    spread: float
    inverse: tuple[tuple[float, ...], ...]

    def at(self, terms: Sequence[float]) -> float:
        """Half the interval's width where the terms are these."""
        row = np.asarray(terms, dtype=np.float64)
        return self.spread * math.sqrt(1 + float(row @ np.asarray(self.inverse) @ row))


def reach_of(terms: Sequence[Sequence[float]], residuals: Sequence[float]) -> Reach:
    """Of a fit whose values had these terms and lay so far from it.

    Raises:
        ValueError: there are no more values than terms.
    """
    known = np.asarray(terms, dtype=np.float64)
    freedom = len(known) - known.shape[1]
    if freedom < 1:
        raise ValueError(f"{len(known)} values say nothing beyond {known.shape[1]} terms")
    scale = np.abs(known).max(axis=0)
    inverse = np.linalg.inv((known / scale).T @ (known / scale)) / np.outer(scale, scale)
    error = math.sqrt(math.fsum(each * each for each in residuals) / freedom)
    return Reach(t_quantile(freedom) * error, tuple(map(tuple, inverse.tolist())))


def block_medians(samples: Sequence[float], blocks: Sequence[int]) -> dict[int, float]:
    """The median of each block's samples, by block number."""
    grouped: dict[int, list[float]] = {}
    for sample, block in zip(samples, blocks, strict=True):
        grouped.setdefault(block, []).append(sample)
    return {block: median(values) for block, values in sorted(grouped.items())}


def wilson_interval(hits: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share hits / n (Wilson 1927)."""
    if n <= 0:
        raise ValueError("no samples")
    p = hits / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def clopper_pearson_interval(hits: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share hits / n (Clopper and Pearson 1934): never below its level.

    Both may be fractions, where samples count for more or less than one.
    """
    if not 0 <= hits <= n or n <= 0:
        raise ValueError(f"no share: {hits} of {n}")
    tail = (1 - level) / 2
    low = _share_at(hits, n - hits + 1, tail) if hits > 0 else 0.0
    high = _share_at(hits + 1, n - hits, 1 - tail) if hits < n else 1.0
    return low, high


def binomial_at_most(hits: int, n: int, share: float) -> float:
    """The chance of at most `hits` among `n` of which each is one by `share`."""
    return 1.0 if hits >= n else _beta_below(1 - share, n - hits, hits + 1)


def mcnemar_p(one: int, other: int) -> float:
    """McNemar's exact two-sided p-value of so many pairs that differ one way, and the other way.

    Under no difference each of them is a toss of a coin (McNemar 1947, in its exact form).
    """
    return min(1.0, 2 * binomial_at_most(min(one, other), one + other, 0.5))


def paired_share_interval(gained: float, lost: float, n: float) -> tuple[float, float]:
    """95 % interval of the difference of two shares on the same n samples.

    `gained` of them are hits for ours alone, `lost` for theirs alone; the difference is (gained -
    lost) / n. The exact limits of both are recovered into one interval (the square-and-add method
    of Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data"; Zou and Donner 2008), with the correlation of two counts of
    one multinomial. With no pair that differs it is that of Clopper and Pearson: at n = 50 it
    reaches 7.1 points to both sides. Its coverage is at least 95 %, and a limit is missed by at
    most 2.5 %, from 10 samples to 5 000 and from no flips to 80 %.
    """
    up, down = gained / n, lost / n
    up_low, up_high = clopper_pearson_interval(gained, n)
    down_low, down_high = clopper_pearson_interval(lost, n)
    alike = math.sqrt(up * down / ((1 - up) * (1 - down))) if up < 1 and down < 1 else 0.0

    def reach(own: float, other: float) -> float:
        return math.sqrt(own * own + other * other + 2 * alike * own * other)

    low = up - down - reach(up - up_low, down_high - down)
    high = up - down + reach(up_high - up, down - down_low)
    return max(-1.0, low), min(1.0, high)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """How far from 0 Student's t of so many degrees of freedom stays by this level, both ways."""
    share = _share_at(freedom / 2, 0.5, 1 - level)
    return math.sqrt(freedom * (1 - share) / share)


def recovered_interval(
    difference: float,
    ours: tuple[float, tuple[float, float]],
    theirs: tuple[float, tuple[float, float]],
) -> tuple[float, float]:
    """The interval of ours minus theirs, from the intervals of two independent figures.

    Each is a figure with its interval. Their limits are recovered into one (the square-and-add
    method of Newcombe 1998, "Interval estimation for the difference between independent
    proportions", method 10; Zou and Donner 2008 for any figures).
    """
    (own, (low, high)), (other, (other_low, other_high)) = ours, theirs
    down = math.hypot(own - low, other_high - other)
    return difference - down, difference + math.hypot(high - own, other - other_low)


def _share_at(a: float, b: float, below: float) -> float:
    """The quantile of the beta distribution, by halving."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high) or high - low < 1e-13 * high:
            return middle
        low, high = (middle, high) if _beta_below(middle, a, b) < below else (low, middle)


def _beta_below(x: float, a: float, b: float) -> float:
    """The distribution function of the beta distribution, as a continued fraction.

    By the method of Lentz (Press et al., Numerical Recipes, section 6.4).
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_below(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front += a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    found = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / (1 + step * d or tiny)
            c = 1 + step / c or tiny
            found *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return math.exp(front) * found / a
