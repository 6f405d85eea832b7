"""Logistic regression on features, L2-regularised, by L-BFGS.

A strength is scikit-learn's 1 / C: the sum of the losses plus strength / 2 times the squared
weights is minimised, without the biases. As there, several classes share one softmax, two are one
logistic regression, and classes that an image may have several of are one each. The solver is
scipy's, no torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipperf.errors import MissingDependencyError, UsageError

ITERATIONS = 1000
TOLERANCE = 1e-4
"""Of the mean loss's largest gradient, scikit-learn's."""

SHARE = 0.02
"""No more of the first gradient than this may be left, either: with many classes and short features
that one is below `TOLERANCE`, and nothing would be trained."""

Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Of logits [n, columns]: the mean loss, and n times its gradient in them; they may be changed."""


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


def fit(
    features: np.ndarray,
    right: np.ndarray,
    classes: int,
    strength: float,
    start: Linear | None = None,
) -> Linear:
    """Train on features [n, dim], from zeros or from another classifier.

    `right` are labels int [n], or bool [n, classes] where several classes are right. The minimum
    is one, so that where it starts matters to the time alone.

    Raises:
        MissingDependencyError: scipy is not installed.
        UsageError: features are not finite, or labels do not fit them.
    """
    minimize = solver()
    _check(features, right, classes)
    n, dim = features.shape
    loss, columns, penalty = _loss(right, classes), _columns(right, classes), strength / n

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        own = flat.reshape(columns, dim + 1)
        both = own.astype(features.dtype)
        logits = features @ both[:, :dim].T
        logits += both[:, dim]
        value, slope = loss(logits)
        gradient = np.empty((columns, dim + 1))
        gradient[:, :dim] = slope.T @ features / n
        gradient[:, dim] = slope.sum(axis=0, dtype=np.float64) / n
        gradient[:, :dim] += penalty * own[:, :dim]
        squares = float(np.einsum("ij,ij->", own[:, :dim], own[:, :dim]))
        return value + penalty / 2 * squares, gradient.ravel()

    first = np.abs(objective(np.zeros(columns * (dim + 1)))[1]).max()
    tolerance = min(TOLERANCE, SHARE * float(first))
    options = {"maxiter": ITERATIONS, "maxls": 50, "gtol": tolerance, "ftol": 64 * 2.2e-16}
    at = _flat(start, columns, dim)
    found = minimize(objective, at, jac=True, method="L-BFGS-B", options=options)
    both = found.x.reshape(columns, dim + 1).astype(features.dtype)
    if columns < classes:  # how much more the second of two is
        both = np.concatenate([-both / 2, both / 2])
    return Linear(both[:, :dim].copy(), both[:, dim].copy(), float(strength), int(found.nit))


def solver() -> Callable[..., Any]:
    """Scipy's.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as exc:
        raise MissingDependencyError(
            "a linear probe takes scipy: pip install 'clipperf[probe]'"
        ) from exc
    found: Callable[..., Any] = minimize
    return found


def _check(features: np.ndarray, right: np.ndarray, classes: int) -> None:
    if features.ndim != 2 or len(features) != len(right) or not len(right):
        raise UsageError(f"{len(right)} labels for features of shape {list(features.shape)}")
    if not np.isfinite(features).all():
        raise UsageError("a feature is not a finite number")
    if right.dtype == bool:
        if right.ndim != 2 or right.shape[1] != classes:
            raise UsageError(f"labels of shape {list(right.shape)} for {classes} classes")
    elif right.min() < 0 or right.max() >= classes:
        raise UsageError(f"label {int(right.max())}, but there are only {classes} classes")


def _columns(right: np.ndarray, classes: int) -> int:
    """How many rows of weights are sought."""
    return 1 if classes == 2 and right.dtype != bool else classes


def _flat(start: Linear | None, columns: int, dim: int) -> np.ndarray:
    """Where to begin: rows of weights and bias, one after the other."""
    if start is None:
        return np.zeros(columns * (dim + 1))
    both = np.column_stack([start.weights, start.biases]).astype(np.float64)
    return (both if len(both) == columns else both[1:] - both[:1]).ravel()


def _loss(right: np.ndarray, classes: int) -> Loss:
    if right.dtype == bool:
        return _logistic(right)
    if classes == 2:
        return _logistic(right[:, None] == 1)
    return _softmax(right)


def _softmax(labels: np.ndarray) -> Loss:
    rows = np.arange(len(labels))

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[rows, labels]
        np.exp(logits, out=logits)
        sums = logits.sum(axis=1, keepdims=True)
        mean = float(np.mean(np.log(sums[:, 0]) - right, dtype=np.float64))
        logits /= sums
        logits[rows, labels] -= 1
        return mean, logits

    return loss


def _logistic(right: np.ndarray) -> Loss:
    """The sum over the columns of what each costs."""

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        costs = np.logaddexp(0, logits) - np.where(right, logits, 0)
        mean = float(costs.sum(axis=1, dtype=np.float64).mean())
        half = np.tanh(logits / 2)  # no overflow, unlike 1 / (1 + exp)
        half += 1
        half /= 2
        return mean, half - right

    return loss
