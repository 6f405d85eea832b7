"""Geolocation: the share of images placed within so many km of where they were taken."""

from __future__ import annotations

import numpy as np

from clipperf.evals.metric import Located, Metric
from clipperf.evals.outcome import SHARE, Outcome

KM = (1, 25, 200, 750, 2500)
"""Street, city, region, country, continent (Hays and Efros 2008; Weyand et al. 2016)."""


def outcomes(located: Located) -> list[Outcome]:
    """One figure a distance, which itself is within."""
    groups = np.zeros(len(located.km), np.int64)
    rows = []
    for km in KM:
        hits = located.km <= km
        name = f"{located.name} within {km} km"
        rows.append(Outcome(name, located.side, SHARE, hits, hits, groups, None))
    return rows


METRIC = Metric(
    "within-km",
    "geolocation",
    outcomes,
    figures=lambda candidates: [f"within {km} km" for km in KM],
)
