"""Which deployments no other beats in everything (Pareto). Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clipperf.report.sizing.types import Deployment

Figures = tuple[float, ...]


def front(plans: Sequence[Deployment]) -> list[Deployment]:
    """Those that are best in some mix of accuracy, what they carry, memory and cost.

    Without prices machines are the cost, and only those of one kind are compared. An accuracy or
    a memory that is not known counts as the worst. Of equal ones the first stays.
    """
    found: list[tuple[tuple[str, ...], Figures, Deployment]] = []
    for plan in plans:
        where = () if plan.per_month is not None else tuple(env_id for env_id, _ in plan.kinds)
        found.append((where, _figures(plan), plan))
    kept: list[tuple[tuple[str, ...], Figures]] = []
    best = []
    # In the order of all figures whatever beats another comes before it.
    for where, figures, plan in sorted(found, key=lambda each: each[1]):
        if not any(there == where and _beats(other, figures) for there, other in kept):
            kept.append((where, figures))
            best.append(plan)
    order = {id(plan): place for place, plan in enumerate(plans)}
    return sorted(best, key=lambda plan: order[id(plan)])


def _figures(plan: Deployment) -> Figures:
    """Less is better in each of them."""
    cost = plan.machines if plan.per_month is None else plan.per_month
    return (
        cost,
        -plan.quality.value if plan.quality is not None else math.inf,
        -(plan.carries or 0.0),
        math.inf if plan.memory_bytes is None else plan.memory_bytes,
    )


def _beats(one: Figures, other: Figures) -> bool:
    """Whether it is as good in everything: equal ones count as beaten by the first."""
    return all(a <= b for a, b in zip(one, other, strict=True))
