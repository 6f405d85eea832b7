"""Medians, quantiles and intervals. Pure functions over plain sequences; no I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def quantile(samples: Sequence[float], q: float) -> float | None:
    """The q-quantile (linear interpolation), or None where too few samples back it."""
    if len(samples) < MIN_SAMPLES_FOR_QUANTILE.get(q, math.ceil(6.5 / min(q, 1 - q))):
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


def block_medians(samples: Sequence[float], blocks: Sequence[int]) -> dict[int, float]:
    """The median of each block's samples, by block number."""
    grouped: dict[int, list[float]] = {}
    for sample, block in zip(samples, blocks, strict=True):
        grouped.setdefault(block, []).append(sample)
    return {block: median(values) for block, values in sorted(grouped.items())}


def wilson_interval(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share hits / n (Wilson 1927)."""
    if n <= 0:
        raise ValueError("no samples")
    p = hits / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def paired_difference_interval(
    ours: Sequence[float], theirs: Sequence[float], resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of mean(ours) - mean(theirs) over the same samples, in pairs.

    Where all pairs agree the interval is exactly (0, 0).
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"pairs needed: {len(ours)} against {len(theirs)} samples")
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    if not np.any(gaps != gaps[0]):
        return float(gaps[0]), float(gaps[0])
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):
        means[i] = gaps[rng.integers(0, len(gaps), len(gaps))].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
