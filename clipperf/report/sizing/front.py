"""Which deployments no other beats in everything. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clipperf.report import pareto
from clipperf.report.sizing.types import Deployment


def front(plans: Sequence[Deployment]) -> list[Deployment]:
    """Those that are best in some mix of accuracy, what they carry, memory and cost.

    Without prices machines are the cost, and only those of one kind are compared. An accuracy or
    a memory that is not known counts as the worst.
    """
    kinds: dict[tuple[str, ...], list[Deployment]] = {}
    for plan in plans:
        where = () if plan.per_month is not None else tuple(env_id for env_id, _ in plan.kinds)
        kinds.setdefault(where, []).append(plan)
    best = {id(plan) for mine in kinds.values() for plan in pareto.front(mine, _figures)}
    return [plan for plan in plans if id(plan) in best]


def _figures(plan: Deployment) -> pareto.Figures:
    """Less is better in each of them."""
    cost = plan.machines if plan.per_month is None else plan.per_month
    return (
        cost,
        -plan.quality.value if plan.quality is not None else math.inf,
        -(plan.carries or 0.0),
        math.inf if plan.memory_bytes is None else plan.memory_bytes,
    )
