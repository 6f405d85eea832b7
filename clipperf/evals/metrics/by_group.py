"""The figures of each group of images that a dataset asks for, over the images of it alone.

Top-1 is a row of its own; those of other metrics are rows where the metric is asked for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clipperf.evals.metric import METRICS, Metric, Ranked
from clipperf.evals.outcome import Outcome

KIND, NAME = "classification", "by-group"


def outcomes(ranked: Ranked) -> list[Outcome]:
    """What the other metrics make of each group, metric by metric."""
    top = f"{ranked.name} top-1"
    return [
        replace(
            outcome,
            metric=f"{outcome.metric}, {name}",
            usual=outcome.metric == top,
            group=name,
            whole=outcome.metric,
        )
        for metric in METRICS
        if metric.kind == KIND and metric.name != NAME
        for name, own in ranked.slices.items()
        for outcome in metric.outcomes(_of(ranked, own))
    ]


def _of(ranked: Ranked, own: np.ndarray) -> Ranked:
    """The queries of one group alone."""
    candidates = ranked.candidates
    return replace(
        ranked,
        ranks=ranked.ranks[own],
        candidates=candidates if isinstance(candidates, int) else candidates[own],
        groups=np.asarray(ranked.groups)[own],
        right=None if ranked.right is None else ranked.right[own],
        predicted=None if ranked.predicted is None else ranked.predicted[own],
        parts=None,
        slices={},
    )


METRIC = Metric(NAME, KIND, outcomes, figures=lambda candidates: [])
# Their names are the groups', which tasks know: see `groups.figures_by_group`.
