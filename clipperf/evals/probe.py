"""Linear probes: logistic regression on features, as in appendix A.3 of the CLIP paper.

L2-regularised multinomial logistic regression by L-BFGS with at most 1,000 iterations. Its strength
lies within [1e-6, 1e6] on 96 logarithmic steps, 8 a decade, and is found on a validation split: the
paper's seven strengths first, then half of the interval around the peak, again and again, down to
one step. What scores in the end was trained on the training and the validation split together.

A strength is scikit-learn's 1 / C: the sum of the losses plus strength / 2 times the squared
weights is minimised, without the biases. The solver is scipy's, no torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.evals.metric import Ranked
from clipperf.evals.ranks import by_score

STRENGTHS = np.logspace(-6, 6, 97)
"""The strengths that are looked at, 8 a decade."""

FIRST_STEPS = tuple(range(0, 97, 16))
"""1e-6, 1e-4, 1e-2, 1, 1e2, 1e4 and 1e6."""

FEW_SHOT_STRENGTH = 1 / 0.316
"""Where there is nothing to search on: what CLIP's own example of a linear probe takes."""

ITERATIONS = 1000
TOLERANCE = 1e-4
"""Of the mean loss's largest gradient, scikit-learn's."""


@dataclass(frozen=True)
class Linear:
    """A classifier: `weights` [classes, dim] and `biases` [classes], and how it was found."""

    weights: np.ndarray
    biases: np.ndarray
    strength: float
    iterations: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits float64 [n, classes]."""
        logits: np.ndarray = features @ self.weights.T + self.biases
        return logits.astype(np.float64)

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """The share of features whose best class is right."""
        return float((self.scores(features).argmax(axis=1) == labels).mean())


@dataclass(frozen=True)
class Probe:
    """A probe after its search: the classifier, and the validation accuracy by step tried."""

    linear: Linear
    tried: Mapping[int, float] = field(default_factory=dict)

    def ranked(self, features: np.ndarray, labels: np.ndarray) -> Ranked:
        """The right class of every test image among all classes, for the metrics."""
        found = by_score(self.linear.scores(features), labels)
        return Ranked(
            "linear probe",
            "classification",
            "image",
            found.ranks,
            candidates=len(self.linear.biases),
            groups=labels,
            predicted=found.predicted,
        )


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
    start: Linear | None = None,
) -> Linear:
    """Train on features [n, dim] and labels int [n], from zeros or from another classifier.

    The minimum is one, so that where it starts matters to the time alone.

    Raises:
        MissingDependencyError: scipy is not installed.
        UsageError: features are not finite, or labels do not fit them.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as exc:
        raise MissingDependencyError(
            "a linear probe takes scipy: pip install 'clipperf[probe]'"
        ) from exc

    if features.ndim != 2 or len(features) != len(labels) or not len(labels):
        raise UsageError(f"{len(labels)} labels for features of shape {list(features.shape)}")
    if not np.isfinite(features).all():
        raise UsageError("a feature is not a finite number")
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"label {int(labels.max())}, but there are only {classes} classes")
    n, dim = features.shape
    rows, penalty = np.arange(n), strength / n

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(classes, dim + 1).astype(features.dtype)
        weights, biases = both[:, :dim], both[:, dim]
        logits = features @ weights.T
        logits += biases
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[rows, labels]
        np.exp(logits, out=logits)
        sums = logits.sum(axis=1, keepdims=True)
        loss = float(np.mean(np.log(sums[:, 0]) - right, dtype=np.float64))
        logits /= sums
        logits[rows, labels] -= 1
        gradient = np.empty((classes, dim + 1))
        gradient[:, :dim] = logits.T @ features / n
        gradient[:, dim] = logits.sum(axis=0, dtype=np.float64) / n
        own = flat.reshape(classes, dim + 1)[:, :dim]
        gradient[:, :dim] += penalty * own
        return loss + penalty / 2 * float(np.einsum("ij,ij->", own, own)), gradient.ravel()

    at = np.zeros(classes * (dim + 1))
    if start is not None:
        at = np.column_stack([start.weights, start.biases]).astype(np.float64).ravel()
    options = {"maxiter": ITERATIONS, "maxls": 50, "gtol": TOLERANCE, "ftol": 64 * 2.2e-16}
    found = minimize(objective, at, jac=True, method="L-BFGS-B", options=options)
    both = found.x.reshape(classes, dim + 1).astype(features.dtype)
    return Linear(both[:, :dim].copy(), both[:, dim].copy(), float(strength), int(found.nit))


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
    labels: np.ndarray,
    classes: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> Probe:
    """Search the strength, then train on all: by the rules of A.3.

    `validation` are the features and labels of the data's own validation split; without one a
    fifth of each class of the training split is held out for the search.
    """
    if validation is None:
        held = held_out(labels)
        inner, own = (features[~held], labels[~held]), (features[held], labels[held])
        whole = features, labels
    else:
        inner, own = (features, labels), validation
        whole = np.concatenate([features, own[0]]), np.concatenate([labels, own[1]])
    fits: dict[int, Linear] = {}

    def score(step: int) -> float:
        near = min(fits, key=lambda other: abs(other - step), default=None)
        start = None if near is None else fits[near]
        fits[step] = fit(*inner, classes, STRENGTHS[step], start)
        return fits[step].accuracy(*own)

    best, tried = search(score)
    return Probe(fit(*whole, classes, STRENGTHS[best], fits[best]), tried)


def held_out(labels: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Which samples are held out: bool [n], that share of each class, none of one alone."""
    rng, held = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        held[places[: min(len(places) - 1, max(1, round(share * len(places))))]] = True
    if not held.any():
        raise UsageError("every class has one sample: give a validation split")
    return held


@dataclass(frozen=True)
class FewShot:
    """Test accuracy with `shots` samples a class, one a repeat, and the interval of their mean.

    The interval is Student's over the repeats, which draw other samples; None for one of them.
    """

    shots: int
    accuracies: tuple[float, ...]
    interval: tuple[float, float] | None

    @property
    def accuracy(self) -> float:
        """The mean over the repeats."""
        return float(np.mean(self.accuracies))


def few_shot(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    test: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    repeats: int = 3,
) -> list[FewShot]:
    """Probes of so many samples a class, drawn anew in each repeat.

    The strength is searched on the validation split, which is not trained on; without one it is
    `FEW_SHOT_STRENGTH`.

    Raises:
        UsageError: a class has fewer samples than are to be drawn.
    """
    least = int(np.bincount(labels, minlength=classes).min())
    if max(shots) > least:
        raise UsageError(f"{max(shots)} shots, and a class has {least} samples")
    found = []
    for count in shots:
        rows = []
        for repeat in range(repeats):
            own = drawn(labels, count, repeat)
            few = features[own], labels[own]
            strength = _searched(few, classes, validation)
            rows.append(fit(*few, classes, strength).accuracy(*test))
        found.append(FewShot(count, tuple(rows), _student(rows)))
    return found


def _searched(
    few: tuple[np.ndarray, np.ndarray],
    classes: int,
    validation: tuple[np.ndarray, np.ndarray] | None,
) -> float:
    """The strength that does best on a validation split."""
    if validation is None:
        return FEW_SHOT_STRENGTH

    def score(step: int) -> float:
        return fit(*few, classes, STRENGTHS[step]).accuracy(*validation)

    return float(STRENGTHS[search(score)[0]])


def drawn(labels: np.ndarray, shots: int, repeat: int) -> np.ndarray:
    """Indices of so many samples of each class; fewer are the first of more in the same repeat."""
    rng = np.random.default_rng(repeat)
    orders = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return np.concatenate([order[:shots] for order in orders])


def _student(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975) * error)
    return max(0.0, float(mean) - reach), min(1.0, float(mean) + reach)
