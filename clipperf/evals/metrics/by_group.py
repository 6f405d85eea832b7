"""Top-1 accuracy of each group of images that a dataset asks for, and how many there are of it."""

from __future__ import annotations

import numpy as np

from clipperf.evals.metric import Metric, Ranked
from clipperf.evals.outcome import SHARE, Outcome
from clipperf.evals.ranks import hits_at


def outcomes(ranked: Ranked) -> list[Outcome]:
    """One figure a group, over its images alone."""
    if ranked.chance(1) >= 1:
        return []
    hits = hits_at(ranked.ranks, 1)
    decisions = hits if ranked.predicted is None else ranked.predicted
    rows = []
    for name, own in ranked.slices.items():
        whole = f"{ranked.name} top-1, {name}"
        rest = (hits[own], decisions[own], np.asarray(ranked.groups)[own], ranked.chance(1))
        rows.append(Outcome(whole, ranked.side, SHARE, *rest, group=name))
    return rows


METRIC = Metric("by-group", "classification", outcomes, figures=lambda candidates: [])
# Their names are the groups', which tasks know: see `groups.figures_by_group`.
