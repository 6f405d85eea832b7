"""Groups of images, by the columns that a recipe names: regions, incomes, ages.

``group = ["race", "gender"]`` looks at every value of each column, and at every combination of
them. ``"race=White"`` has two groups: those images, and all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipperf.evals.clips import check_clips_agree
from clipperf.evals.columns import group_values
from clipperf.evals.datasets import Dataset


def groups_of(
    dataset: Dataset, images: Sequence[int] | np.ndarray, combined: bool = True
) -> dict[str, np.ndarray]:
    """Which of these images are in each group, by its name: bool [images].

    Combinations of all columns are groups as well, where they are not left out.

    Raises:
        UsageError: there is no such column; the message lists those that there are.
    """
    each = [group_values(dataset, name) for name in dataset.groups]
    found: dict[str, np.ndarray] = {}
    for values in each:
        found.update(_masks(values[np.asarray(images, np.int64)]))
    if combined and len(each) > 1:
        joined = np.array([", ".join(own) for own in zip(*each, strict=True)])
        found.update(_masks(joined[np.asarray(images, np.int64)]))
    return found


def figures_by_group(dataset: Dataset, figure: str, combined: bool = True) -> list[str]:
    """The names that a figure has for each group of the dataset's images."""
    images = range(len(dataset.images))
    return [f"{figure}, {name}" for name in groups_of(dataset, images, combined)]


def check_groups(dataset: Dataset) -> None:
    """Raise UsageError where a column is not there, or a clip lies in more than one group of it."""
    for name in dataset.groups:
        check_clips_agree(dataset, group_values(dataset, name).tolist(), f"their group by {name}")


def parts_of(dataset: Dataset, images: Sequence[int] | np.ndarray) -> np.ndarray | None:
    """The number of the combination that each of these images is of; None without groups."""
    if not dataset.groups:
        return None
    each = [group_values(dataset, name)[np.asarray(images, np.int64)] for name in dataset.groups]
    joined = [", ".join(own) for own in zip(*each, strict=True)]
    numbers: np.ndarray = np.unique(joined, return_inverse=True)[1]
    return numbers


def _masks(values: np.ndarray) -> dict[str, np.ndarray]:
    return {str(value): values == value for value in np.unique(values)}
