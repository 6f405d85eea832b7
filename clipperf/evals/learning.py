"""What tasks that learn from a part of the data have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.clips import centres
from clipperf.evals.datasets import Dataset
from clipperf.evals.folds import TRAIN, divides_itself
from clipperf.evals.lbfgs import solver
from clipperf.evals.metric import Ranked
from clipperf.evals.outcome import Outcome
from clipperf.evals.probe import LENGTH
from clipperf.evals.ranks import by_score
from clipperf.evals.task import Embeddings
from clipperf.text import quoted

Samples = tuple[np.ndarray, np.ndarray]
"""Features [n, dim], and what is right of each: int [n], or bool [n, classes]."""


def answers_of(dataset: Dataset) -> np.ndarray:
    """The class of every image, int [n]; bool [n, classes] where it may have several."""
    if not dataset.label_sets:
        return np.asarray(dataset.labels)
    right = np.zeros((len(dataset.images), len(dataset.class_names)), bool)
    for row, labels in zip(right, dataset.label_sets, strict=True):
        row[list(labels)] = True
    return right


def features_of(found: Embeddings, part: str = "") -> np.ndarray:
    """What a probe of the images, or of those of a part, is trained on: [images, width].

    Features where there are any, else embeddings.
    """
    if part in found.features:
        return found.features[part]
    unit = found.parts[part] if part else found.images
    return unit * np.float32(LENGTH)


def samples_of(dataset: Dataset, found: Embeddings, part: str) -> Samples:
    """A part of the data; "" is the data itself.

    Raises:
        UsageError: its images have no classes, or other kinds of them than the data's own.
    """
    return features_of(found, part), part_answers(dataset, part)


def part_answers(dataset: Dataset, part: str) -> np.ndarray:
    """What is right of each image of a part, as `answers_of`; "" is the data itself.

    Raises:
        UsageError: its images have no classes, or other kinds of them than the data's own.
    """
    own = dataset.parts[part] if part else dataset
    if bool(own.label_sets) != bool(dataset.label_sets) or not (own.labels or own.label_sets):
        kind = "several classes an image" if dataset.label_sets else "one class an image"
        raise UsageError(f"{dataset.name}: its part for {part} must have {kind}, as it has itself")
    return answers_of(own)


def checked(dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """What is right of the images to train on, and to search on where these are there.

    Raises:
        ClipperfError: what a probe lacks, which can be told before anything is embedded.
    """
    solver()
    dataset = centred(dataset)
    train = part_answers(dataset, "" if divides_itself(dataset) else TRAIN)
    return train, part_answers(dataset, "validation") if "validation" in dataset.parts else None


def check_trained(dataset: Dataset, train: np.ndarray, tests: np.ndarray, where: str = "") -> None:
    """Raise UsageError where a class that is tested has no image to train on: none could be right.

    `train` and `tests` are what is right of each image, as `answers_of`; `where` ends the message.
    """
    known, asked = (_classes_in(right) for right in (train, tests))
    absent = sorted(asked - known)
    if absent:
        name = quoted(dataset.class_names[absent[0]])
        more = f" and {len(absent) - 1} more have" if len(absent) > 1 else " has"
        raise UsageError(f"{dataset.name}: class {name}{more} no image to train on{where}")


def _classes_in(right: np.ndarray) -> set[int]:
    there = np.flatnonzero(right.any(axis=0)) if right.dtype == bool else np.unique(right)
    return {*there.tolist()}


def centred(dataset: Dataset) -> Dataset:
    """The dataset and its parts with what probes see of clips: their centre frames."""
    if not dataset.clip:
        return dataset
    parts = {name: centres(part)[0] for name, part in dataset.parts.items()}
    return replace(centres(dataset)[0], parts=parts)


def told(outcome: Outcome, found: Embeddings) -> Outcome:
    """An outcome of a probe, which says whether it is of features and of how many."""
    if "" not in found.features:
        return outcome
    said = f"features of {found.features[''].shape[1]} values"
    more = f"; {outcome.detail}" if outcome.detail else ""
    return replace(outcome, detail=said + more, features=True)


def ranked(name: str, scores: np.ndarray, labels: np.ndarray) -> Ranked:
    """The right class of every image among all classes; entries of `scores` are overwritten."""
    found = by_score(scores, labels)
    return Ranked(
        name,
        "classification",
        "image",
        found.ranks,
        candidates=scores.shape[1],
        groups=labels,
        predicted=found.predicted,
    )
