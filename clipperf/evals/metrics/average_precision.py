"""Mean average precision over classes of which an image may have several: VOC2007's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clipperf.evals.metric import Metric, Scored
from clipperf.evals.outcome import Estimate, Outcome
from clipperf.evals.precision import average_precision, eleven_point
from clipperf.evals.resampling import Reach, missed_over, resampled


def over_classes(one: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
    """The mean of a figure over the classes that have an image."""

    def value(values: np.ndarray, groups: np.ndarray) -> float:
        scores, right = values[:, 0], values[:, 1] > 0
        found = [one(scores[:, c], right[:, c]) for c in range(scores.shape[1])]
        known = [each for each in found if np.isfinite(each)]
        return float(np.mean(known)) if known else float("nan")

    return resampled(value, least=of_positives)


def of_positives(values: np.ndarray, groups: np.ndarray) -> Reach:
    """What may go unseen, by the number of images that each class is right for."""
    return missed_over((values[:, 1] > 0).sum(axis=0))


ALL_POINT = over_classes(average_precision)
ELEVEN_POINT = over_classes(eleven_point)


def outcomes(scored: Scored) -> list[Outcome]:
    """All-point, as CLIP_benchmark has it, and the 11-point one of VOC2007 and the CLIP paper."""
    share = float(scored.right.any(axis=0) @ scored.right.mean(axis=0))
    chance = share / max(int(scored.right.any(axis=0).sum()), 1)
    rest = (scored.stacked, scored.best, scored.no_groups)
    return [
        Outcome(f"{scored.name} mAP", scored.side, ALL_POINT, *rest, chance),
        Outcome(f"{scored.name} 11-point mAP", scored.side, ELEVEN_POINT, *rest, None),
    ]


METRIC = Metric(
    "average-precision",
    "multi-label",
    outcomes,
    figures=lambda candidates: ["mAP", "11-point mAP"],
)
