"""The solver on functions whose lowest places are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
