"""Clouds of points around one centre a class, and what scikit-learn makes of them."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

CLASSES, DIM = 5, 12

Data = tuple[np.ndarray, np.ndarray]


def blobs(n: int, seed: int, noise: float = 1.2, classes: int = CLASSES) -> Data:
    centres = np.random.default_rng(0).normal(size=(classes, DIM))
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return centres[labels] + noise * rng.normal(size=(n, DIM)), labels


def theirs(data: Data, strength: float) -> LogisticRegression:
    """At the minimum, by Newton's method: L-BFGS with its usual tolerance stops short of it at both
    ends of the sweep, and with one that does not takes minutes.
    """
    own = LogisticRegression(C=1 / strength, solver="newton-cg", max_iter=10_000, tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that only rounding keeps from being smaller
        return own.fit(*data)


def theirs_scored(data: Data, strength: float, own: Data) -> tuple[float, float]:
    """Its accuracy, and minus its mean loss."""
    found = theirs(data, strength)
    return float(found.score(*own)), -float(log_loss(own[1], found.predict_proba(own[0])))


TRAIN, VALIDATION, TEST = blobs(250, 1), blobs(150, 2), blobs(400, 3)
