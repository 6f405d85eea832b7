"""Fits kept in the store beside embeddings, so that the same features are not trained on again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clipperf.evals.kept import once
from clipperf.evals.logistic import Linear
from clipperf.evals.probe import STRENGTHS, Probe

RECIPE = 4
"""Raise it when the same features come to give another fit."""


def digest(arrays: Sequence[np.ndarray]) -> str:
    """Of what a probe is trained and searched on."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def kept_probe(parts: Sequence[Any], make: Callable[[], Probe]) -> Probe:
    """The probe that the store keeps under these `parts`; else one made now, and kept."""
    found = once("probes", (RECIPE, *parts), lambda: _packed(make()))
    return _unpacked(found)


def _packed(probe: Probe) -> np.ndarray:
    """All of a probe as float64 [classes + 1, ...]: how it was found, then weights and biases."""
    linear, (classes, dim) = probe.linear, probe.linear.weights.shape
    rows = np.full((classes + 1, max(3 + len(STRENGTHS), 1 + dim)), np.nan)
    rows[0, :3] = linear.strength, linear.iterations, dim
    for step, score in probe.tried.items():
        rows[0, 3 + step] = score
    rows[1:, 0], rows[1:, 1 : 1 + dim] = linear.biases, linear.weights
    return rows


def _unpacked(rows: np.ndarray) -> Probe:
    strength, iterations, dim = rows[0, :3].tolist()
    scores = rows[0, 3 : 3 + len(STRENGTHS)]
    tried = {int(step): float(scores[step]) for step in np.flatnonzero(np.isfinite(scores))}
    weights = rows[1:, 1 : 1 + int(dim)]
    return Probe(Linear(weights, rows[1:, 0], strength, int(iterations)), tried)
