"""Columns of a dataset that a recipe names: by which figures are wanted, or what names clips."""

from __future__ import annotations

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.layout import few
from clipperf.text import quoted

FOLDER = "folder"
"""What a recipe's `clip` says where every folder holds the frames of one clip."""

LABELS = ("label", "class")
"""What a table's column of classes is called, which is kept as a column only on request."""


def column_of(dataset: Dataset, name: str, purpose: str = "") -> tuple[str, ...]:
    """What a column says of every image.

    Raises:
        UsageError: there is no such column; the message lists those that there are.
    """
    if name in dataset.columns:
        return dataset.columns[name]
    more = ""
    if name in LABELS and dataset.class_names:
        more = (
            f"; of a table {name} is what is asked, and a column as well where its TOML says "
            f'label = "{name}"'
        )
    known = few(dataset.columns, 20) or "none"
    raise UsageError(
        f"{dataset.name} has no column {quoted(name)}{purpose}; there are {known}{more}"
    )


def group_values(dataset: Dataset, name: str) -> np.ndarray:
    """What a group says of every image, in words: "race White", "race other than White".

    Raises:
        UsageError: there is no such column, or no image has that value.
    """
    column, _, one = name.partition("=")
    values = column_of(dataset, column)
    if not one:
        return np.array([f"{column} {value or 'unknown'}" for value in values])
    if one not in values:
        raise UsageError(f"{dataset.name}: no image has {quoted(one)} as its {column}")
    return np.array([f"{column} {one if v == one else f'other than {one}'}" for v in values])


def check_columns(dataset: Dataset) -> None:
    """Raise UsageError where a column that a recipe names is not there, whoever would use it."""
    for name in dataset.groups:
        group_values(dataset, name)
    if dataset.clip and dataset.clip != FOLDER:
        column_of(dataset, dataset.clip, " that names clips")
