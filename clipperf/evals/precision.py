"""Precision, recall and what is made of them, from scores. Pure numpy; no model runs here.

Equal scores are one threshold: all of them are taken or none, as in scikit-learn, so that no figure
depends on the order of the samples, and a model that gives everything one score gets what guessing
gets. Neighbours within `ranks.TIE` of each other are taken for equal.
"""

from __future__ import annotations

import numpy as np

from clipperf.evals.ranks import TIE

RECALLS = np.arange(11) / 10
"""Where VOC2007 looks at the precision."""


def curve(
    scores: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights taken that are right, and taken in all, at every threshold from the highest score.

    `scores`, bool `right` and `weights` are [n].
    """
    order = np.argsort(-scores, kind="stable")
    scores = scores[order].astype(np.float64)
    own = np.ones(len(order)) if weights is None else weights[order]
    ends = np.append(np.flatnonzero(scores[:-1] - scores[1:] > TIE), len(scores) - 1)
    return np.cumsum(own * right[order])[ends], np.cumsum(own)[ends]


def average_precision(
    scores: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """The mean of the precision over the recall: scikit-learn's, without interpolation.

    Not a number where nothing is right.
    """
    hits, taken = curve(scores, right, weights)
    if not hits[-1] > 0:
        return float("nan")
    gained = np.diff(hits, prepend=0.0)
    return float((gained * hits / np.where(taken > 0, taken, 1)).sum() / hits[-1])


def eleven_point(scores: np.ndarray, right: np.ndarray) -> float:
    """VOC2007's: the mean of the best precision from a recall of 0, 0.1, ... 1 on.

    (Everingham et al. 2010, section 4.2.) Not a number where nothing is right.
    """
    hits, taken = curve(scores, right)
    if not hits[-1] > 0:
        return float("nan")
    best = np.maximum.accumulate((hits / taken)[::-1])[::-1]
    # A recall of exactly 3 / 10 must count as 0.3.
    first = np.searchsorted(hits, RECALLS * hits[-1] - 1e-9)
    return float(best[first].mean())


def roc_auc(scores: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right sample scores above a wrong one, equal scores for half.

    Not a number where all samples are of one kind.
    """
    hits, taken = curve(scores, right)
    misses = taken - hits
    if not (hits[-1] > 0 and misses[-1] > 0):
        return float("nan")
    area = (np.diff(misses, prepend=0.0) * (hits + np.append(0.0, hits[:-1])) / 2).sum()
    return float(area / (hits[-1] * misses[-1]))


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean of F1 over the classes that have samples."""
    size = int(max(predicted.max(), labels.max())) + 1
    right = np.bincount(labels[predicted == labels], minlength=size)
    said, there = np.bincount(predicted, minlength=size), np.bincount(labels, minlength=size)
    own = there > 0
    return float((2 * right[own] / (said[own] + there[own])).mean())
