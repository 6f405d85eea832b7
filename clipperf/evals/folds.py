"""Folds: one set of images, divided more than once into those to train on and those to test.

STL-10 has ten folds and UCF101 three; published figures are means over them. Each fold is a column
that says "train" or "test" of an image, or nothing. The columns may be those of the data itself,
which is then trained on as well, or of its part for training: then all of the data is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.clips import check_clips_agree, only_images
from clipperf.evals.datasets import Dataset
from clipperf.evals.layout import few
from clipperf.evals.task import Embeddings
from clipperf.text import quoted

TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Fold:
    """Indices of the images to train on, in the part or the data itself, and of those to test.

    `name` is that of its column.
    """

    name: str
    train: np.ndarray
    test: np.ndarray


def divides_itself(dataset: Dataset) -> bool:
    """Whether the data holds what is trained on beside what is tested."""
    return any(TRAIN in dataset.columns.get(name, ()) for name in dataset.folds)


def folds_of(dataset: Dataset) -> list[Fold]:
    """The folds of the data, or of its part for training; none where there are none.

    Raises:
        UsageError: a fold has no column, no image to train on or none to test; or an image is said
            to be something else.
    """
    part = dataset.parts.get(TRAIN)
    if divides_itself(dataset) or part is None:
        return [Fold(name, *_divided(dataset, name)) for name in dataset.folds]
    every = np.arange(len(dataset.images))
    return [Fold(name, _divided(part, name, tested=False)[0], every) for name in part.folds]


def check_folds(dataset: Dataset) -> None:
    """Raise UsageError where the folds of the data say too little, or divide a clip."""
    owner = dataset if divides_itself(dataset) else dataset.parts.get(TRAIN)
    if owner is None:
        return
    folds_of(dataset)
    for name in owner.folds:
        check_clips_agree(owner, owner.columns[name], f"their part of the fold {quoted(name)}")


def held_for_test(dataset: Dataset, found: Embeddings) -> tuple[Dataset, Embeddings]:
    """The images that any fold tests, and their embeddings; all where data does not say."""
    if not divides_itself(dataset):
        return dataset, found
    chosen = np.unique(np.concatenate([fold.test for fold in folds_of(dataset)]))
    features = {name: own if name else own[chosen] for name, own in found.features.items()}
    return only_images(dataset, chosen), Embeddings(
        found.images[chosen], found.texts, found.parts, features
    )


def without_column(dataset: Dataset, name: str) -> UsageError:
    """What to raise where the column of a fold is not there."""
    known = few(dataset.columns, 20) or "none"
    return UsageError(f"{dataset.name} has no column {quoted(name)}; there are {known}")


def _divided(dataset: Dataset, name: str, tested: bool = True) -> Sequence[np.ndarray]:
    if name not in dataset.columns:
        raise without_column(dataset, name)
    said = np.array(dataset.columns[name])
    odd = set(said.tolist()) - {TRAIN, TEST, ""}
    if odd:
        raise UsageError(
            f"{dataset.name}: its fold {quoted(name)} says {few(odd)}: it may say "
            f"{TRAIN!r}, {TEST!r} or nothing"
        )
    own = [np.flatnonzero(said == which) for which in (TRAIN, TEST)]
    for which, there in zip((TRAIN, TEST)[: 1 + tested], own, strict=False):
        if not len(there):
            raise UsageError(f"{dataset.name}: its fold {quoted(name)} has no image to {which}")
    return own
