"""What a metric makes of one model's answers, sample by sample, and how that becomes a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipperf import stats
from clipperf.nouns.variant import Side

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """How values [n] of samples become a figure; `groups` int [n] holds their classes or images.

    `value(values, groups)` is the figure, `interval(values, groups)` its 95 % interval, and
    `gap(ours, theirs, groups)` the 95 % interval of the difference of two models' figures on the
    same samples in pairs.
    """

    value: Callable[[np.ndarray, np.ndarray], float]
    interval: Callable[[np.ndarray, np.ndarray], Interval]
    gap: Callable[[np.ndarray, np.ndarray, np.ndarray], Interval]


@dataclass(frozen=True)
class Outcome:
    """One metric's result per sample, for one model.

    `values` [n], of hits bool, give the figure as `estimate` says; `decisions` [n] are what the
    model chose: where two models differ, a sample flipped. `groups` int [n] holds each sample's
    class or image, `chance` is the figure that guessing is expected to get.
    """

    metric: str
    side: Side
    estimate: Estimate
    values: np.ndarray
    decisions: np.ndarray
    groups: np.ndarray
    chance: float | None

    @property
    def value(self) -> float:
        """The figure."""
        return self.estimate.value(self.values, self.groups)

    @property
    def interval(self) -> Interval:
        """Its 95 % interval."""
        return self.estimate.interval(self.values, self.groups)

    def gap(self, other: Outcome) -> Interval:
        """The 95 % interval of this figure minus another model's on the same samples.

        Exactly (0, 0) where no sample changed.
        """
        if np.array_equal(self.values, other.values):
            return (0.0, 0.0)
        return self.estimate.gap(self.values, other.values, self.groups)


def mean(values: np.ndarray, groups: np.ndarray) -> float:
    """The mean of `values`, whatever their groups; of hits: their share."""
    return float(values.mean())


def mean_interval(values: np.ndarray, groups: np.ndarray) -> Interval:
    """95 % percentile bootstrap interval of `mean` over the samples."""
    return stats.paired_difference_interval(values.tolist(), [0.0] * len(values))


def mean_per_class(values: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the mean of `values` in each; of hits: mean per-class recall.

    Classes without a sample have no recall and are left out. `values` may also be paired
    differences of hits, since the mean is linear.
    """
    if not len(labels):
        raise ValueError("no samples")
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=values)
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def mean_per_class_interval(
    values: np.ndarray, labels: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of `mean_per_class` over the samples.

    Samples are drawn across classes, so that classes of one sample add their share of doubt. A
    class that a resample misses is left out of that resample's mean.
    """
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(labels), len(labels))
        means.append(mean_per_class(values[drawn], labels[drawn]))
    return _middle_95(means)


def grouped_mean_interval(
    values: np.ndarray, groups: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values`, drawing whole groups.

    For samples that are alike within a group, such as the captions of one image: drawing them
    one by one would take them for more evidence than they are. Groups of unequal
    size make the mean a ratio: the drawn groups' sum over the number of their samples.
    """
    _, groups = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(groups, weights=values), np.bincount(groups)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(sums), len(sums))
        means.append(float(sums[drawn].sum() / counts[drawn].sum()))
    return _middle_95(means)


def _middle_95(means: list[float]) -> tuple[float, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def linear(
    value: Callable[[np.ndarray, np.ndarray], float],
    resampled: Callable[[np.ndarray, np.ndarray], Interval],
    interval: Callable[[np.ndarray, np.ndarray], Interval],
) -> Estimate:
    """An estimate that is linear in the values: that of their gaps is the gap of two models'."""

    def gap(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray) -> Interval:
        return resampled(ours.astype(np.float64) - theirs.astype(np.float64), groups)

    return Estimate(value, interval, gap)


def _wilson(hits: np.ndarray, groups: np.ndarray) -> Interval:
    return stats.wilson_interval(int(hits.sum()), len(hits))


def _unless_certain(
    value: Callable[[np.ndarray, np.ndarray], float],
    resampled: Callable[[np.ndarray, np.ndarray], Interval],
    samples: Callable[[np.ndarray], int],
) -> Callable[[np.ndarray, np.ndarray], Interval]:
    """The resampled interval of hits, but Wilson's over that many samples where all agree.

    No doubt at all would be too good to be true of few samples.
    """

    def interval(hits: np.ndarray, groups: np.ndarray) -> Interval:
        found = resampled(hits.astype(np.float64), groups)
        n = samples(groups)
        wilson = stats.wilson_interval(round(value(hits, groups) * n), n)
        return found if found[0] < found[1] else wilson

    return interval


SHARE = linear(mean, mean_interval, _wilson)
"""The share of independent samples that are hits."""

SHARE_OF_GROUPS = linear(
    mean,
    grouped_mean_interval,
    _unless_certain(mean, grouped_mean_interval, lambda groups: len(np.unique(groups))),
)
"""The share of hits where samples of one group, such as the captions of an image, are alike."""

MEAN_OVER_CLASSES = linear(
    mean_per_class,
    mean_per_class_interval,
    _unless_certain(mean_per_class, mean_per_class_interval, len),  # classes are no clusters
)
"""The mean over the classes of each one's share of hits."""
