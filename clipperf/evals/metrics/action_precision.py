"""RareAct's mWAP and mWSAP: mean average precision of actions, however many clips a video has.

(Miech et al. 2020, "RareAct: A video dataset of unusual interactions", and its script.) Each action
has a list of positive clips, one of negatives, and one of hard negatives. mWAP weighs a clip by one
over the clips of its video in the same list; mWSAP draws one of these clips, `DRAWS` times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipperf.evals.metric import Metric, Scored
from clipperf.evals.metrics.average_precision import of_positives
from clipperf.evals.outcome import Outcome
from clipperf.evals.precision import average_precision
from clipperf.evals.resampling import resampled

DRAWS = 100

NEGATIVE, POSITIVE = 0, 1
"""Annotations; all others are hard negatives."""


def lists(
    actions: Sequence[tuple[str, str]],
    of: np.ndarray,
    annotations: np.ndarray,
    videos: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What is right, bool [n, actions], and the strata int [n, actions], of annotated clips.

    `actions` are verbs and nouns; clip i of video `videos[i]` was annotated as `annotations[i]` for
    action `of[i]`. What is positive for one action is a hard negative for those that share its verb
    or its noun, and a negative for all others.
    """
    n, videos = len(of), np.unique(videos, return_inverse=True)[1]
    verbs, nouns = ([action[i] for action in actions] for i in (0, 1))
    verb, noun = (np.unique(names, return_inverse=True)[1] for names in (verbs, nouns))
    shares = (verb[:, None] == verb) | (noun[:, None] == noun)
    kinds = np.full((n, len(actions)), -1)
    positive = annotations == POSITIVE
    # 0 negative, 1 positive, 2 hard negative.
    kinds[positive] = np.where(shares[of[positive]], 2, 0)
    kinds[np.arange(n), of] = np.where(annotations > POSITIVE, 2, annotations)
    strata = np.where(kinds < 0, -1, 3 * videos[:, None] + kinds)
    return kinds == POSITIVE, strata


def _over_actions(values: np.ndarray, draws: int) -> float:
    """The mean over the actions that have a positive clip; with no draws, of weighted clips."""
    rng, found = np.random.default_rng(0), []
    for scores, right, strata in zip(*np.moveaxis(values, 0, 2), strict=True):
        inside = strata >= 0
        scores, right = scores[inside], right[inside] > 0
        if not right.any():
            continue
        place, counts = np.unique(strata[inside], return_inverse=True, return_counts=True)[1:]
        if not draws:
            found.append(average_precision(scores, right, 1 / counts[place]))
            continue
        order, first = np.argsort(place, kind="stable"), np.cumsum(counts) - counts
        chosen = [order[first + rng.integers(0, counts)] for _ in range(draws)]
        found.append(float(np.mean([average_precision(scores[c], right[c]) for c in chosen])))
    return float(np.mean(found)) if found else float("nan")


WEIGHTED = resampled(lambda values, groups: _over_actions(values, 0), least=of_positives)
SAMPLED = resampled(
    lambda values, groups: _over_actions(values, DRAWS),
    lambda values, groups: _over_actions(values, 1),
    of_positives,
)


def outcomes(scored: Scored) -> list[Outcome]:
    """mWAP and mWSAP."""
    rest = (scored.stacked, scored.best, scored.no_groups, None)
    return [
        Outcome(f"{scored.name} mWAP", scored.side, WEIGHTED, *rest),
        Outcome(f"{scored.name} mWSAP", scored.side, SAMPLED, *rest),
    ]


METRIC = Metric(
    "action-precision",
    "actions",
    outcomes,
    figures=lambda candidates: ["mWAP", "mWSAP"],
)
