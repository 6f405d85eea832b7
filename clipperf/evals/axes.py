"""Features along their principal axes, so that a solver sees how far each direction reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipperf.errors import UsageError


@dataclass(frozen=True)
class Axes:
    """Features turned: `rows` [n, r] less their `mean` [dim], in the features' own type.

    `directions` are [dim, r] and `variances` [r], where r is the lesser of n and dim: weights of
    the least length have no part outside of these directions.
    """

    rows: np.ndarray
    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray


def principal(features: np.ndarray) -> Axes:
    """Features [n, dim] turned to their principal axes; fits on the same ones may share it.

    Raises:
        UsageError: there are none, or one is not finite.
    """
    if features.ndim != 2 or not len(features):
        raise UsageError(f"nothing to train on in features of shape {list(features.shape)}")
    if not np.isfinite(features).all():
        raise UsageError("a feature is not a finite number")
    mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    rows = features - mean
    n, dim = rows.shape
    if n < dim:
        _, lengths, turned = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
        variances, directions = lengths**2 / n, turned.T
    else:
        variances, directions = np.linalg.eigh((rows.T @ rows).astype(np.float64) / n)
    turned = rows @ directions.astype(rows.dtype)
    return Axes(turned, mean.astype(np.float64), directions, np.maximum(variances, 0))
