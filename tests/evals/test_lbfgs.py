"""The solver on functions whose lowest places are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clipperf.evals import lbfgs
from clipperf.evals.lbfgs import Function, Place, lowest

BENDS = np.logspace(-6, 3, 40)


def bowl(curvature: np.ndarray) -> Function:
    """Half of `BENDS` times the squares of the distances from 1."""

    def function(own: np.ndarray) -> Place:
        way = own - 1
        return Place(own, float(BENDS @ way**2) / 2, BENDS * way, curvature)

    return function


def near(at: Place) -> bool:
    return bool(np.abs(at.own - 1).max() < 1e-6)


def test_a_bowl_whose_curvature_is_known_takes_two_steps() -> None:
    function = bowl(BENDS)
    at, iterations = lowest(function, function(np.zeros(40)), near, 100)
    assert near(at) and iterations <= 2
    assert lowest(function, at, near, 100) == (at, 0)


def test_a_bowl_whose_curvature_is_known_by_and_large() -> None:
    function = bowl(BENDS * np.random.default_rng(0).uniform(0.2, 5, 40))
    at, iterations = lowest(function, function(np.zeros(40)), near, 200)
    assert near(at) and 1 < iterations < 60
    assert lowest(function, function(np.zeros(40)), near, 3)[1] == 3


def test_a_step_that_is_far_too_long_or_short() -> None:
    """log cosh is flat far out, where the curvature at 0 says little."""

    def of(curvature: float) -> Function:
        def function(own: np.ndarray) -> Place:
            value = float(np.logaddexp(own, -own).sum()) - math.log(2)
            return Place(own, value, np.tanh(own), np.full(1, curvature))

        return function

    for curvature in (1e-3, 1.0, 1e3):
        function = of(curvature)
        at, _ = lowest(function, function(np.full(1, 5.0)), lambda at: abs(at.own[0]) < 1e-6, 50)
        assert at.own == pytest.approx([0], abs=1e-6)


def test_it_ends_where_nothing_is_lower() -> None:
    function = bowl(BENDS)
    at, iterations = lowest(function, function(np.zeros(40)), lambda at: False, 1000)
    assert at.own == pytest.approx(np.ones(40), abs=1e-6) and iterations < 1000


def test_a_leg_that_ended_near_enough_counts_though_its_value_is_equal_by_rounding() -> None:
    """1 and the half of 1e-18 is 1, at the start as at the lowest place."""

    def function(own: np.ndarray) -> Place:
        way = own - 1e-9
        return Place(own, float(1 + way @ way / 2), way, np.ones(1))

    start = function(np.zeros(1))
    at, iterations = lowest(function, start, lambda at: abs(at.gradient[0]) < 1e-12, 50)
    assert start.value == at.value == 1
    assert at.own == pytest.approx([1e-9]) and iterations >= 1


@pytest.mark.parametrize("again", [np.copy, np.negative])
def test_a_step_that_moves_nothing(
    again: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The solver tells of it, and does not compute there: it keeps what equals its last place."""
    minimize = lbfgs.solver()

    def telling(objective: Any, flat: np.ndarray, *, callback: Any, **options: Any) -> Any:
        def twice(intermediate_result: Any) -> None:
            callback(intermediate_result=intermediate_result)
            callback(intermediate_result=intermediate_result)

        objective(flat)
        first = type("Result", (), {"x": again(flat)})()
        callback(intermediate_result=first)
        return minimize(objective, flat, callback=twice, **options)

    monkeypatch.setattr(lbfgs, "solver", lambda: telling)
    function = bowl(BENDS)
    at, _ = lowest(function, function(np.zeros(40)), near, 100)
    assert near(at)
