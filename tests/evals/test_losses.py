"""Losses: values by hand, gradients by differences, and digits that are not lost."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipperf.evals.losses import columns_of, loss_of, shares_alone

ALL = slice(None)


def test_values_by_hand() -> None:
    softmax = loss_of(np.array([0, 2]), 3)
    value, slope = softmax(np.log([[1.0, 2, 1], [1, 1, 2]]), ALL)
    assert value == pytest.approx(math.log(4) + math.log(2))
    assert slope == pytest.approx(np.array([[-3 / 4, 1 / 2, 1 / 4], [1 / 4, 1 / 4, -1 / 2]]))
    each = loss_of(np.array([[True, False]]), 2)
    value, slope = each(np.log([[3.0, 3.0]]), ALL)
    assert value == pytest.approx(math.log(4 / 3) + math.log(4))
    assert slope == pytest.approx(np.array([[-1 / 4, 3 / 4]]))
    assert (columns_of(np.array([0, 1]), 2), columns_of(np.array([[True, False]]), 2)) == (1, 2)


@pytest.mark.parametrize("right", [np.array([0, 1, 2, 1]), np.eye(4, 3, dtype=bool)])
def test_gradients_are_differences(right: np.ndarray) -> None:
    loss, logits = loss_of(right, 3), np.random.default_rng(0).normal(size=(4, 3))
    _, slope = loss(logits.copy(), ALL)
    for place in np.ndindex(4, 3):
        by = np.zeros((4, 3))
        by[place] = 1e-5
        higher, lower = loss(logits + by, ALL)[0], loss(logits - by, ALL)[0]
        assert slope[place] == pytest.approx((higher - lower) / 2e-5, abs=1e-8)


def test_what_is_all_but_certain_keeps_its_digits() -> None:
    """exp -50 is 1.9e-22, far below the last digit of 1."""
    small = math.exp(-50)
    value, slope = loss_of(np.array([1]), 3)(np.array([[0.0, 50, 0]]), ALL)
    assert value == pytest.approx(2 * small) and slope[0] == pytest.approx(
        [small, -2 * small, small]
    )
    value, slope = loss_of(np.array([1]), 2)(np.array([[50.0]]), ALL)
    assert value == pytest.approx(small) and slope[0] == pytest.approx([-small])
    with np.errstate(over="raise"):
        assert loss_of(np.array([0]), 3)(np.array([[0.0, 1e4, 0]]), ALL)[0] == 1e4


def test_biases_of_nothing_but_shares() -> None:
    labels = np.array([0, 0, 0, 1])
    assert shares_alone(labels, 2) == pytest.approx([-math.log(3)])
    three = shares_alone(labels, 3)
    assert three[:2] == pytest.approx([math.log(3 / 4), math.log(1 / 4)]) and three[2] < -60
    each = shares_alone(labels[:, None] == np.arange(2), 2)
    assert each == pytest.approx([math.log(3), -math.log(3)])
