"""L-BFGS for a smooth convex function whose curvature is known by and large.

(Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 7.5.) Unlike scipy's it begins each
step with that curvature and ends by a test of the caller's own; and as there are no bounds to heed,
an iteration costs little more than the function.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MEMORY = 10
"""How many steps back are remembered."""

STEEP = 0.9
"""A step ends where the slope along it, down or up, is at most this share of the first one."""

LENGTHS = 30
"""How many lengths of one step are tried."""

SLACK = 1e-8
"""The share by which rounding may raise a value."""


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
    """
    at, past = start, deque[tuple[np.ndarray, np.ndarray]](maxlen=MEMORY)
    for iteration in range(most):
        if done(at):
            return at, iteration
        found = _along(function, at, _direction(at, past))
        if found is None:
            return at, iteration
        step, bend = found.own - at.own, found.gradient - at.gradient
        if np.vdot(step, bend) > 0:
            past.append((step, bend))
        at = found
    return at, most


def _direction(at: Place, past: deque[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Minus the gradient by the inverse of the curvature, as the past steps showed it."""
    toward = -at.gradient
    shares = []
    for step, bend in reversed(past):
        share = np.vdot(step, toward) / np.vdot(step, bend)
        toward -= share * bend
        shares.append(share)
    if past:
        step, bend = past[-1]
        toward *= np.vdot(step, bend) / np.vdot(bend, bend / at.curvature)
    toward /= at.curvature
    for (step, bend), share in zip(past, reversed(shares), strict=True):
        toward += (share - np.vdot(bend, toward) / np.vdot(step, bend)) * step
    return toward


def _along(function: Function, at: Place, direction: np.ndarray) -> Place | None:
    """A place in a direction where it goes neither steeply down nor steeply up any more."""
    first = float(np.vdot(at.gradient, direction))
    if first >= 0:
        return None
    near, far, length = (0.0, first), (math.inf, 0.0), 1.0
    for _ in range(LENGTHS):
        found = function(at.own + length * direction)
        slope = float(np.vdot(found.gradient, direction))
        if slope > -STEEP * first or found.value > at.value + SLACK * abs(at.value):
            far = length, slope
        elif slope < STEEP * first:
            near = length, slope
        else:
            return found
        length = _between(near, far)
    return None


def _between(near: tuple[float, float], far: tuple[float, float]) -> float:
    """Where the slope would be 0 on a line between two lengths, not too near to either."""
    if math.isinf(far[0]):
        return 4 * near[0]
    share = near[1] / (near[1] - far[1]) if far[1] > 0 else 0.5
    return near[0] + min(max(share, 0.1), 0.9) * (far[0] - near[0])
