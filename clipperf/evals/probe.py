"""Linear probes: logistic regression on features, as in appendix A.3 of the CLIP paper.

L-BFGS with at most 1,000 iterations. The strength of the regularisation lies within [1e-6, 1e6] on
96 logarithmic steps, 8 a decade, and is found on a validation split: the paper's seven strengths
first, then half of the interval around the peak, again and again, down to one step. What scores in
the end was trained on the training and the validation split together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.logistic import Linear, fit
from clipperf.evals.precision import eleven_point

STRENGTHS = np.logspace(-6, 6, 97)
"""The strengths that are looked at, 8 a decade."""

FIRST_STEPS = tuple(range(0, 97, 16))
"""1e-6, 1e-4, 1e-2, 1, 1e2, 1e4 and 1e6."""

LENGTH = 10.0
"""About how long CLIP's own embeddings are before they are normalised, and what unit vectors are
brought to: shorter ones take the solver several times as long, and other strengths."""


@dataclass(frozen=True)
class Probe:
    """A probe after its search: the classifier, and the validation score by step tried."""

    linear: Linear
    tried: Mapping[int, float] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """The validation score of the strength that was taken."""
        return max(self.tried.values())


def search(score: Callable[[int], float]) -> tuple[int, dict[int, float]]:
    """The best step of `STRENGTHS`, and the score of each step that was tried.

    Of equal ones the strongest: it explains as much with less.
    """
    tried = {step: score(step) for step in FIRST_STEPS}

    def peak() -> int:
        return max(tried, key=lambda step: (tried[step], step))

    span = (FIRST_STEPS[1] - FIRST_STEPS[0]) // 2
    while span:
        middle = peak()
        for step in (middle - span, middle + span):
            if 0 <= step < len(STRENGTHS) and step not in tried:
                tried[step] = score(step)
        span //= 2
    return peak(), tried


def probe(
    features: np.ndarray,
    right: np.ndarray,
    classes: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> Probe:
    """Search the strength, then train on all: by the rules of A.3.

    `right` are labels int [n], or bool [n, classes]. `validation` are the features and what is
    right of the data's own validation split; without one a fifth of the training split is held out
    for the search, see `held_out`. It goes by accuracy, or by 11-point mAP where images have
    several classes.
    """
    if validation is None:
        held = held_out(right)
        inner, own = (features[~held], right[~held]), (features[held], right[held])
        whole = features, right
    else:
        inner, own = (features, right), validation
        whole = np.concatenate([features, own[0]]), np.concatenate([right, own[1]])
    fits: dict[int, Linear] = {}

    def score(step: int) -> float:
        near = min(fits, key=lambda other: abs(other - step), default=None)
        start = None if near is None else fits[near]
        fits[step] = fit(*inner, classes, STRENGTHS[step], start)
        return quality(fits[step], *own)

    best, tried = search(score)
    return Probe(fit(*whole, classes, STRENGTHS[best], fits[best]), tried)


def quality(linear: Linear, features: np.ndarray, right: np.ndarray) -> float:
    """What a search goes by: accuracy; 11-point mAP where images have several classes."""
    if right.dtype != bool:
        return linear.accuracy(features, right)
    scores, there = linear.scores(features), np.flatnonzero(right.any(axis=0))
    return float(np.mean([eleven_point(scores[:, c], right[:, c]) for c in there]))


def held_out(right: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Which samples are held out: bool [n], that share of each class, none of one alone.

    Where images have several classes, that share of those that have any, and of those without.

    Raises:
        UsageError: that leaves nothing to search on.
    """
    labels = np.asarray(right.any(axis=1), np.int64) if right.dtype == bool else right
    rng, held = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        held[places[: min(len(places) - 1, max(1, round(share * len(places))))]] = True
    check_searchable(right[held])
    return held


def check_searchable(right: np.ndarray) -> None:
    """Raise UsageError where a search by these images could not tell one strength from another."""
    if right.dtype == bool:
        if not right.any():
            raise UsageError(
                "no image to search the strength on has a class: give a validation split with some"
            )
    elif not len(right):
        raise UsageError("every class has one sample: give a validation split")
