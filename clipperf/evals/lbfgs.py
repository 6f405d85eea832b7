"""Scipy's L-BFGS for a smooth convex function whose curvature is known by and large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.errors import MissingDependencyError
from clipperf.system import extras

LEG = 30
"""After so many iterations the solver begins anew, with the curvature of where it has come to."""


@dataclass(frozen=True)
class Place:
    """Where a function was computed: `own`, its `value`, and its `gradient` in `own`.

    `curvature` is about how strongly it bends along each entry of `own`, above 0.
    """

    own: np.ndarray
    value: float
    gradient: np.ndarray
    curvature: np.ndarray


Function = Callable[[np.ndarray], Place]


def lowest(
    function: Function, start: Place, done: Callable[[Place], bool], most: int
) -> tuple[Place, int]:
    """Where a function is lowest, and in how many iterations it was found.

    It ends where `done` says so, after `most` iterations, or where no step is lower any more.

    Raises:
        MissingDependencyError: scipy or threadpoolctl is not installed.
    """
    at, used = start, 0
    near = done(at)
    while used < most and not near:
        found, iterations = _leg(function, at, done, min(LEG, most - used))
        used, near = used + iterations, done(found)
        if not near and (not iterations or found.value >= at.value):
            break
        at = found
    return at, used


def _leg(
    function: Function, start: Place, done: Callable[[Place], bool], most: int
) -> tuple[Place, int]:
    """Some iterations, in units of each entry in which the function bends as strongly by all."""
    unit, at = 1 / np.sqrt(start.curvature), start
    tried: dict[bytes, Place] = {}

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        found = function(start.own + unit * flat.reshape(unit.shape))
        tried[flat.tobytes()] = found
        return found.value, (unit * found.gradient).ravel()

    def reached(intermediate_result: Any) -> None:
        nonlocal at
        # A step too small to move anything is not computed again, nor one from 0.0 to -0.0.
        at = tried.get(intermediate_result.x.tobytes(), at)
        tried.clear()
        if done(at):
            raise StopIteration

    options = {"maxiter": most, "maxls": 50, "gtol": 0.0, "ftol": 0.0}
    minimize, flat = solver(), np.zeros(unit.size)
    with _scipys_blas().limit(limits=1):
        found = minimize(
            objective, flat, jac=True, method="L-BFGS-B", callback=reached, options=options
        )
    return at, int(found.nit)


def _scipys_blas() -> Any:
    """Scipy's own BLAS. Its threads wait awake for the next little sum of the solver's, on the
    cores where numpy's have the function to compute: three times the time on two cores."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController()
    return found.select(filepath=[one.filepath for one in found.lib_controllers if _is_scipys(one)])


def _is_scipys(library: Any) -> bool:
    return "scipy" in Path(library.filepath).parent.name


def solver() -> Callable[..., Any]:
    """Scipy's.

    Raises:
        MissingDependencyError: scipy or threadpoolctl is not installed.
    """
    try:
        import threadpoolctl  # noqa: F401 - used beside it
        from scipy.optimize import minimize
    except ImportError as exc:
        raise MissingDependencyError(
            f"a linear probe takes scipy and threadpoolctl: {extras.bring('scipy')}"
        ) from exc
    found: Callable[..., Any] = minimize
    return found
