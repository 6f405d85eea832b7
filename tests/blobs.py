"""Clouds of points around one centre a class, and what scikit-learn makes of them."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

CLASSES, DIM = 5, 12

Data = tuple[np.ndarray, np.ndarray]


def blobs(n: int, seed: int, noise: float = 1.2, classes: int = CLASSES) -> Data:
    centres = np.random.default_rng(0).normal(size=(classes, DIM))
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return centres[labels] + noise * rng.normal(size=(n, DIM)), labels


def theirs(data: Data, strength: float) -> LogisticRegression:
    return LogisticRegression(C=1 / strength, max_iter=1000).fit(*data)


TRAIN, VALIDATION, TEST = blobs(250, 1), blobs(150, 2), blobs(400, 3)
