"""What a linear classifier is trained to make small: one softmax, or logistic regressions.

Differences from zero and one are kept to their own precision: of an image that is all but certain
float64's last digit of a probability near one would be all that is left.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Loss = Callable[[np.ndarray, slice], tuple[float, np.ndarray]]
"""Of logits float64 [rows, columns] of a slice of the images: the sum of the losses, and its
gradient in the logits. The logits may be changed."""

NEVER = 1e-30
"""The share of images that a class without any is taken to have: the best bias of such a class is
minus infinity, and beyond this one nothing changes."""


def columns_of(right: np.ndarray, classes: int) -> int:
    """How many rows of weights are sought: one of two classes, how much more the second is."""
    return 1 if classes == 2 and right.dtype != bool else classes


def loss_of(right: np.ndarray, classes: int) -> Loss:
    """`right` are labels int [n], or bool [n, classes] where several classes are right."""
    if right.dtype == bool:
        return logistic(right)
    if classes == 2:
        return logistic(right[:, None] == 1)
    return softmax(right)


def shares_alone(right: np.ndarray, classes: int) -> np.ndarray:
    """The biases float64 [columns] that are best of a classifier without weights."""
    n = len(right)
    if right.dtype == bool:
        counts = right.sum(axis=0)
    else:
        counts = np.bincount(right, minlength=classes)
    own = np.log(np.maximum(counts / n, NEVER))
    if right.dtype == bool:
        return np.asarray(own - np.log(np.maximum(1 - counts / n, NEVER)))
    return np.asarray(own if columns_of(right, classes) == classes else own[1:] - own[:1])


def softmax(labels: np.ndarray) -> Loss:
    """Of classes of which one is right."""

    def loss(logits: np.ndarray, rows: slice) -> tuple[float, np.ndarray]:
        own = np.arange(len(logits)), labels[rows]
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[own]
        np.exp(logits, out=logits)
        chances = logits[own]
        logits[own] = 0
        others = logits.sum(axis=1)
        total = chances + others
        costs = np.where(right == 0, np.log1p(others), np.log(total) - right)
        logits /= total[:, None]
        logits[own] = -others / total
        return float(costs.sum()), logits

    return loss


def logistic(right: np.ndarray) -> Loss:
    """Of classes that are right or not each: the sum over the columns of what each costs."""
    signs = np.where(right, -1.0, 1.0)

    def loss(logits: np.ndarray, rows: slice) -> tuple[float, np.ndarray]:
        wrong = logits * signs[rows]  # how far on the wrong side
        small = np.exp(-np.abs(wrong))
        costs = np.maximum(wrong, 0) + np.log1p(small)
        slope = np.where(wrong > 0, 1, small) / (1 + small)
        return float(costs.sum()), slope * signs[rows]

    return loss
