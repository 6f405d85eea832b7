"""Principal axes: features as they were, turned, and how far they reach."""

from __future__ import annotations

import numpy as np
import pytest

from clipperf.errors import UsageError
from clipperf.evals.axes import principal


@pytest.mark.parametrize("shape", [(50, 8), (5, 20), (1, 3)])
def test_features_turned_are_the_features(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).normal(3, 1, shape)
    found = principal(features)
    assert found.rows @ found.directions.T + found.mean == pytest.approx(features)
    assert found.rows.shape == (shape[0], min(shape)) == (shape[0], len(found.variances))
    assert found.variances == pytest.approx((found.rows**2).mean(axis=0), abs=1e-12)
    assert found.directions.T @ found.directions == pytest.approx(np.eye(min(shape)), abs=1e-12)


def test_variances_by_hand() -> None:
    found = principal(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]], np.float32))
    assert sorted(found.variances) == pytest.approx([0.5, 4.5]) and found.mean.tolist() == [0, 0]
    assert found.rows.dtype == np.float32


def test_what_has_no_axes() -> None:
    with pytest.raises(UsageError, match="nothing to train on in features of shape"):
        principal(np.zeros((0, 4)))
    with pytest.raises(UsageError, match="not a finite number"):
        principal(np.array([[np.inf]]))
