"""Tasks: what a model is asked to do with a dataset. A task is one record in a file of `tasks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.outcome import Outcome
from clipperf.registry import Registry


@dataclass(frozen=True)
class Embeddings:
    """A dataset as one runtime sees it, all L2-normalised float32.

    `images` [images, dim]; `texts` [texts, dim] by the names that tasks give their texts.
    """

    images: np.ndarray
    texts: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """One kind of evaluation.

    `fits(dataset)` says whether the dataset has what it needs. `texts(dataset)` are the texts to
    embed beside all images, by name ("captions", "prompts"); tasks may share them.
    `outcomes(dataset, embeddings)` are its figures, in the order of the rows: most often what
    `metric.measured` makes of ranks.
    """

    name: str
    fits: Callable[[Dataset], bool]
    texts: Callable[[Dataset], Mapping[str, Sequence[str]]]
    outcomes: Callable[[Dataset, Embeddings], list[Outcome]]


TASKS: Registry[Task] = Registry(
    "task", room="clipperf.evals.tasks", first=("zeroshot", "retrieval")
)
"""Every task, in the order of the rows."""


def fitting(dataset: Dataset) -> list[Task]:
    """The tasks that the dataset has data for."""
    return [task for task in TASKS if task.fits(dataset)]


def nothing_to_score(dataset: Dataset) -> UsageError:
    """What to raise where no task has a figure that could miss."""
    return UsageError(
        f"nothing to score in {dataset.name}: it takes two classes, or two images with captions"
    )


def texts_of(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The texts that these tasks need embedded, by name.

    Raises:
        UsageError: two tasks give other texts the same name.
    """
    found: dict[str, tuple[str, ...]] = {}
    for task in fitting(dataset):
        for name, texts in task.texts(dataset).items():
            if found.setdefault(name, tuple(texts)) != tuple(texts):
                raise UsageError(f"task {task.name}: another task calls other texts {name!r}")
    return dict(sorted(found.items()))
