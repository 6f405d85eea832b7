"""What a metric makes of one model's answers, sample by sample, and how that becomes a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clipperf import stats
from clipperf.nouns.result import Aim
from clipperf.nouns.variant import Side

Interval = tuple[float, float]


class Gap(Protocol):
    """How far a figure lies from another model's on the same samples, in pairs."""

    def interval(self, times: float = 1.0) -> Interval:
        """The 95 % interval of the difference, were there so many times the samples."""
        ...


@dataclass(frozen=True)
class Estimate:
    """How values [n, ...] of samples become a figure; `groups` int [n] are classes or images.

    `value(values, groups)` is the figure, `interval(values, groups)` its 95 % interval, and
    `gap(ours, theirs, groups)` that of two models' difference on the same samples in pairs.
    `independent` says that samples are, whatever their groups.
    """

    value: Callable[[np.ndarray, np.ndarray], float]
    interval: Callable[[np.ndarray, np.ndarray], Interval]
    gap: Callable[[np.ndarray, np.ndarray, np.ndarray], Gap]
    independent: bool = True


@dataclass(frozen=True)
class Outcome:
    """One metric's result per sample, for one model.

    `values` [n, ...], of hits bool, give the figure as `estimate` says; `decisions` [n] are what
    the model chose: where two models differ, a sample flipped. `groups` int [n] holds each
    sample's class or image, `chance` is the figure that guessing is expected to get. One that is
    not `usual` is left out unless it is asked for. `detail` says how the model came to its answers
    where that is found anew for each, such as a probe's strength. `group` names the part of the
    samples that it is of, `aim` says what is good; see `nouns.result.Score`. `whole` names the
    figure of all samples that it is one of groups of: who asks for that wants it as well. With
    `features` it is of what a tower computes before the projection.
    """

    metric: str
    side: Side
    estimate: Estimate
    values: np.ndarray
    decisions: np.ndarray
    groups: np.ndarray
    chance: float | None
    usual: bool = True
    detail: str = ""
    group: str = ""
    aim: Aim = "high"
    features: bool = False
    whole: str = ""

    @property
    def value(self) -> float:
        """The figure."""
        return self.estimate.value(self.values, self.groups)

    @property
    def interval(self) -> Interval:
        """Its 95 % interval."""
        return self.estimate.interval(self.values, self.groups)

    @property
    def hits(self) -> str:
        """Which samples are hits, as `nouns.result.Score.hits`; "" where it is no plain share."""
        if self.estimate is not SHARE or self.values.dtype != bool or self.values.ndim > 1:
            return ""
        return np.packbits(self.values).tobytes().hex()

    def gap(self, other: Outcome) -> Gap:
        """This figure minus another model's on the same samples."""
        return self.estimate.gap(self.values, other.values, self.groups)

    def flips(self, other: Outcome) -> int:
        """How many samples another model decided otherwise, in any of several decisions."""
        differs = self.decisions != other.decisions
        return int(differs.reshape(len(differs), -1).any(axis=1).sum())

    def mcnemar_p(self, other: Outcome) -> float | None:
        """McNemar's exact p-value of the hits that changed; None where samples are no pairs.

        They are none where they are alike within a group, or have no hits.
        """
        if self.values.dtype != bool or self.values.ndim > 1 or not self.estimate.independent:
            return None
        gained, lost = self.values & ~other.values, other.values & ~self.values
        return stats.mcnemar_p(int(gained.sum()), int(lost.sum()))


# --- means ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Design:
    """How samples of groups int [n] weigh in a mean.

    `mean(values, groups)` is the weighted mean, `variance(values, groups)` that of it, and
    `unit(groups)` the usual weight of what answers as one: a sample, or an image's captions.
    """

    mean: Callable[[np.ndarray, np.ndarray], float]
    variance: Callable[[np.ndarray, np.ndarray], float]
    unit: Callable[[np.ndarray], float]

    def size(self, values: np.ndarray, groups: np.ndarray, spread: float) -> float:
        """How many independent samples the mean of these is worth, if `spread` is one's variance.

        It is the ratio of the variances (Kish's effective sample size), taken as though one more
        unit of the usual weight differed from all others: where nothing differs, samples are worth
        as many as there are such units.
        """
        unit = self.unit(groups)
        return (spread + unit) / (self.variance(values, groups) + unit * unit)

    def gap(self, ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray) -> MeanGap:
        """The difference of the means of two models' values."""
        gaps = ours.astype(np.float64) - theirs.astype(np.float64)
        gained, lost = (self.mean(np.maximum(one, 0), groups) for one in (gaps, -gaps))
        spread = gained + lost - (gained - lost) ** 2
        return MeanGap(gained, lost, self.size(gaps, groups, spread))


@dataclass(frozen=True)
class MeanGap:
    """A difference of means of hits: weighted shares gained and lost, of `n` effective samples."""

    gained: float
    lost: float
    n: float

    def interval(self, times: float = 1.0) -> Interval:
        """See `Gap`; `stats.paired_share_interval` says by which rule."""
        n = self.n * times
        return stats.paired_share_interval(self.gained * n, self.lost * n, n)


def mean_by(design: Design, independent: bool = True) -> Estimate:
    """The weighted mean of values from 0 to 1, such as hits.

    Its interval is Wilson's, that of a gap `stats.paired_share_interval`, both for as many
    independent samples as these are worth.
    """

    def interval(values: np.ndarray, groups: np.ndarray) -> Interval:
        wide = values.astype(np.float64)
        if wide.min() < 0 or wide.max() > 1:
            raise ValueError("a mean takes values from 0 to 1")
        share = design.mean(wide, groups)
        n = design.size(wide, groups, share * (1 - share))
        return stats.wilson_interval(share * n, n)

    return Estimate(design.mean, interval, design.gap, independent)


def _mean(values: np.ndarray, groups: np.ndarray) -> float:
    return float(values.mean())


def _mean_over_classes(values: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the means of each class; those without a sample have none."""
    if not len(labels):
        raise ValueError("no samples")
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=values)
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def _variance(values: np.ndarray, groups: np.ndarray) -> float:
    """Of a mean over independent samples."""
    return float(np.var(values)) / len(values)


def _clustered(values: np.ndarray, groups: np.ndarray) -> float:
    """Of a mean over samples whose groups are independent, but not they within one."""
    sums = np.bincount(groups, weights=values - values.mean())
    return float(sums @ sums) / len(values) ** 2


def _stratified(values: np.ndarray, labels: np.ndarray) -> float:
    """Of a mean over classes, whose samples are independent.

    A class says as little of its variance as it has samples: each counts as though it had one more
    of the variance of all, which is all that a class of one sample has.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    counts = np.bincount(labels)
    centres = np.bincount(labels, weights=values) / counts
    inner = np.bincount(labels, weights=(values - centres[labels]) ** 2)
    overall = float((inner / counts + (centres - centres.mean()) ** 2).mean())
    return float(((inner + overall) / counts**2).sum()) / len(counts) ** 2


def unit_of_classes(counts: np.ndarray) -> float:
    """The sum of the squared weights of samples that weigh as much as their class is small."""
    counts = counts[counts > 0]
    return float((1 / counts).sum()) / len(counts) ** 2


ALONE = Design(_mean, _variance, lambda groups: 1 / len(groups))
"""Independent samples."""

GROUPED = Design(
    _mean, _clustered, lambda groups: float(((np.bincount(groups) / len(groups)) ** 2).sum())
)
"""Samples that are alike within a group."""

SHARE = mean_by(ALONE)
"""The share of independent samples that are hits."""

SHARE_OF_GROUPS = mean_by(GROUPED, independent=False)
"""The share of hits where samples of one group, such as the captions of an image, are alike."""

MEAN_OVER_CLASSES = mean_by(
    Design(_mean_over_classes, _stratified, lambda labels: unit_of_classes(np.bincount(labels)))
)
"""The mean over the classes of each one's share of hits; classes without a sample are left out."""
