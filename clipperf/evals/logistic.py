"""Logistic regression on features, L2-regularised, by L-BFGS.

A strength is scikit-learn's 1 / C: the sum of the losses plus strength / 2 times the squared
weights is minimised, without the biases. As there, several classes share one softmax, two are one
logistic regression, and classes that an image may have several of are one each. The solver is
scipy's.

The minimum is one, and what is returned lies within `WITHIN` of it. A bound on the gradient alone,
scikit-learn's test, does not see to that: under a strong penalty the right weights are 1e-5 and any
weights of that size pass; under a weak one the loss is flat long before the minimum. So the
gradient is measured by the penalty, whose curvature the objective has at least along weights;
biases, which have no penalty, are held to an estimate. Features are turned to their principal axes,
whose curvatures are known by and large, which saves most iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.axes import Axes, principal
from clipperf.evals.lbfgs import Function, Place, lowest
from clipperf.evals.losses import columns_of, loss_of, shares_alone, softmax

ITERATIONS = 1000

WITHIN = 1e-3
"""How far weights may be from the minimum's, as a share of their own length."""

SURELY = 1e-6
"""The same of an estimate, which may be wrong by some hundred times."""

NOTHING = 1e-15
"""A length of weights that moves no logit, for a class that none are right for."""

FLAT = 1e-13
"""The least curvature that a loss is taken to have."""

BLOCK_BYTES = 2**25
"""Of logits and features, as float64, that are computed with at a time: all may be gigabytes."""


@dataclass(frozen=True)
class Linear:
    """A classifier: `weights` [classes, dim] and `biases` [classes], and how it was found."""

    weights: np.ndarray
    biases: np.ndarray
    strength: float
    iterations: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits float64 [n, classes]."""
        logits: np.ndarray = features @ self.weights.T + self.biases
        return logits.astype(np.float64)

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """The share of features whose best class is right."""
        return float((self.scores(features).argmax(axis=1) == labels).mean())

    def loss(self, features: np.ndarray, right: np.ndarray) -> float:
        """The mean loss, without the penalty; `right` as `fit` takes it."""
        own = loss_of(right, len(self.biases)) if right.dtype == bool else softmax(right)
        return own(self.scores(features), slice(None))[0] / len(features)


def fit(
    features: np.ndarray,
    right: np.ndarray,
    classes: int,
    strength: float,
    start: Linear | None = None,
    axes: Axes | None = None,
) -> Linear:
    """Train on features [n, dim], from no weights or from another classifier.

    `right` are labels int [n], or bool [n, classes] where several classes are right. `axes` are
    `principal(features)` where they are at hand. Where it starts matters to the time alone: weights
    are within `WITHIN` of the minimum's, unless `iterations` came to `ITERATIONS` or rounding hid
    every way down.

    Raises:
        MissingDependencyError: scipy or threadpoolctl is not installed, and the start is not near
            enough already.
        UsageError: features are not finite, labels do not fit them, or a strength is not positive.
    """
    _check(features, right, classes, strength)
    axes = principal(features) if axes is None else axes
    columns, r = columns_of(right, classes), len(axes.variances)
    function, near = _objective(axes, right, classes, strength), _nearness(axes, right, strength)
    first = None if start is None else function(_turned(start, axes, right, classes))
    if first is None or first.value > _guessing(right, classes):
        none = np.column_stack([np.zeros((columns, r)), shares_alone(right, classes)])
        first = function(none)
    at, iterations = lowest(function, first, near, ITERATIONS)
    weights = (at.own[:, :r] @ axes.directions.T).astype(features.dtype)
    biases = at.own[:, r] - weights @ axes.mean
    if columns < classes:
        weights, biases = np.stack([-weights[0], weights[0]]) / 2, np.append(-biases, biases) / 2
    elif right.dtype != bool:
        biases -= biases.mean()
    return Linear(weights, biases, float(strength), iterations)


def _guessing(right: np.ndarray, classes: int) -> float:
    """The mean loss of what knows nothing, not even the shares of the classes."""
    return classes * math.log(2) if right.dtype == bool else math.log(classes)


def _turned(start: Linear, axes: Axes, right: np.ndarray, classes: int) -> np.ndarray:
    """Another classifier's weights and biases [columns, r + 1] along axes.

    What the classes of a softmax share changes no loss, and at the minimum it is 0.
    """
    weights, biases = start.weights.astype(np.float64), start.biases.astype(np.float64)
    if columns_of(right, classes) < classes:
        weights, biases = weights[1:] - weights[:1], biases[1:] - biases[:1]
    elif right.dtype != bool:
        weights, biases = weights - weights.mean(axis=0), biases - biases.mean()
    return np.column_stack([weights @ axes.directions, biases + weights @ axes.mean])


def _objective(axes: Axes, right: np.ndarray, classes: int, strength: float) -> Function:
    """Of weights and biases [columns, r + 1] along axes: the mean loss and its penalty.

    Classes of one softmax are given one curvature, so that a step leaves what they share at 0.
    """
    loss, columns = loss_of(right, classes), columns_of(right, classes)
    n, r = axes.rows.shape
    size = max(64, BLOCK_BYTES // (8 * (columns + r)))
    blocks = [slice(first, first + size) for first in range(0, n, size)]

    def place(own: np.ndarray) -> Place:
        squares = float(np.einsum("ij,ij->", own[:, :r], own[:, :r]))
        value, gradient, bends = strength / 2 * squares, np.zeros_like(own), np.zeros(columns)
        gradient[:, :r] = strength * own[:, :r]
        for block in blocks:
            rows = axes.rows[block].astype(np.float64)
            costs, slope = loss(rows @ own[:, :r].T + own[:, r], block)
            value += costs
            gradient[:, :r] += slope.T @ rows
            gradient[:, r] += slope.sum(axis=0)
            bends += np.abs(slope).sum(axis=0) - np.einsum("ij,ij->j", slope, slope)
        bends = np.maximum((bends if right.dtype == bool else bends.mean()) / n, FLAT)
        curvature = np.empty_like(own)
        curvature[:, :r] = np.multiply.outer(bends, axes.variances) + strength / n
        curvature[:, r] = bends
        return Place(own, value / n, gradient / n, curvature)

    return place


def _nearness(axes: Axes, right: np.ndarray, strength: float) -> Callable[[Place], bool]:
    """Whether a place is near enough to the minimum: under a softmax in all, else each column.

    The objective bends along weights by the penalty at least, so that with these biases what is
    left to go is no more than the gradient over the penalty. Where the loss bends far more than the
    penalty that asks for more than there is to gain, and the gradient over the whole curvature,
    which is an estimate, is held to `SURELY`. Biases have no penalty: by the estimate alone they
    may move logits no more than such weights do, by features' lengths.
    """
    penalty, axis = strength / len(right), 1 if right.dtype == bool else None
    r, length = len(axes.variances), float(np.sqrt(axes.variances.sum()))

    def near(at: Place) -> bool:
        sizes = np.linalg.norm(at.own[:, :r], axis=axis)
        left = at.gradient / at.curvature
        most = np.linalg.norm(at.gradient[:, :r], axis=axis) / penalty
        about = np.linalg.norm(left[:, :r], axis=axis)
        biases = np.linalg.norm(left[:, r:], axis=axis)
        weights = (most <= WITHIN * sizes + NOTHING) | (about <= SURELY * sizes + NOTHING)
        return bool(np.all(weights) and np.all(biases <= WITHIN * length * sizes + NOTHING))

    return near


def _check(features: np.ndarray, right: np.ndarray, classes: int, strength: float) -> None:
    if features.ndim != 2 or len(features) != len(right) or not len(right):
        raise UsageError(f"{len(right)} labels for features of shape {list(features.shape)}")
    if right.dtype == bool:
        if right.ndim != 2 or right.shape[1] != classes:
            raise UsageError(f"labels of shape {list(right.shape)} for {classes} classes")
    elif right.min() < 0 or right.max() >= classes:
        raise UsageError(f"label {int(right.max())}, but there are only {classes} classes")
    if not strength > 0:
        raise UsageError(f"a strength of {strength} is no penalty")
