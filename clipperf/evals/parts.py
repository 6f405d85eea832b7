"""Other parts of a dataset that tasks ask for: to train on, to search on, to look up in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.folds import TRAIN, divides_itself, folds_of, without_column
from clipperf.evals.layout import MissingSplitError, few
from clipperf.evals.same_classes import with_the_same_classes
from clipperf.evals.task import TASKS, fitting
from clipperf.system.files import digest_of


class MissingPartError(UsageError):
    """A task needs a part of the data that is not there."""


SPLITS = {
    TRAIN: ("train",),
    "validation": ("val", "valid", "validation", "dev"),
    "reference": ("reference", "train"),
}
"""What a part is called in published layouts, the usual name first."""

Load = Callable[[str, str], Dataset]
"""Loads the data of a split; the second is the name of the part that it is for."""


def with_tasks(dataset: Dataset, names: Sequence[str], load: Load) -> Dataset:
    """The dataset for these tasks (none: those that it wants itself), with the parts they need.

    Parts that a task may use and that are not there are left out, and a note says why.

    Raises:
        UsageError: there is no such task, the data is not for it, or lacks a part that it needs.
    """
    for name in names:
        TASKS.get(name)
    dataset = dataclasses.replace(dataset, tasks=tuple(names) or dataset.tasks)
    tasks = fitting(dataset)
    needed = dict.fromkeys(part for task in tasks for part in task.parts)
    if divides_itself(dataset):
        if TRAIN in dataset.named_parts:
            raise UsageError(
                f"{dataset.name}: its TOML names a part for training (train = ...), and its folds "
                f"({few(dataset.folds)}) say which of its own images are trained on: leave out "
                "train or folds"
            )
        needed.pop(TRAIN, None)
    _check_fold_columns(dataset, load)
    usable = dict.fromkeys(part for task in tasks for part in task.may_use if part not in needed)
    notes = list(dataset.notes)
    parts: dict[str, Dataset] = {}
    for part in needed:
        parts[part] = _part(dataset, part, load)
    for part in usable:
        try:
            parts[part] = _part(dataset, part, load)
        except MissingPartError as exc:
            notes.append(str(exc))
    dataset, parts, more = with_the_same_classes(dataset, parts)
    notes += more
    own = {image.sha256 for image in dataset.images}
    for name, other in parts.items():
        twice = sum(image.sha256 in own for image in other.images)
        if twice:
            notes.append(f"{dataset.name}: {twice} images for {name} are evaluated on as well")
        notes += [note for note in other.notes if note not in notes]
    sha256 = dataset.sha256
    if parts:  # another part to train on is another evaluation
        sha256 = digest_of(sha256, {name: other.sha256 for name, other in parts.items()})
    return dataclasses.replace(dataset, sha256=sha256, parts=parts, notes=tuple(notes))


def _check_fold_columns(dataset: Dataset, load: Load) -> None:
    """Make sure that every fold is a column that divides the data, or its part for training.

    Raises:
        UsageError: one is a column of neither, or one of the data's that says nothing is trained
            on: all of the data would be evaluated in silence.
    """
    part = None
    for name in dataset.folds:
        if name in dataset.columns:
            if not divides_itself(dataset) and TRAIN not in dataset.named_parts:
                folds_of(dataset)  # says what is wrong with it
            continue
        if part is None:
            try:
                part = _part(dataset, TRAIN, load)
            except MissingPartError as exc:
                raise without_column(dataset, name) from exc
        if name not in part.columns:
            raise without_column(part, name)


def _images_of(dataset: Dataset) -> list[str]:
    """What tells whether two parts hold the same images, however they are asked about."""
    return sorted(image.sha256 or str(image) for image in dataset.images)


def _part(dataset: Dataset, part: str, load: Load) -> Dataset:
    """A part by the first of its names that is there.

    Raises:
        MissingPartError: there is no such split, and nobody says where the part is.
        UsageError: it is there and cannot be read, or is not where a recipe says that it is.
    """
    reasons = []
    for split in SPLITS[part]:
        try:
            found = load(split, part)
        except MissingSplitError as exc:
            reasons.append(str(exc))
            continue
        if _images_of(found) == _images_of(dataset):
            reasons.append("it would be the same data as what is evaluated")
            continue
        return found
    if part in dataset.named_parts:
        raise UsageError(
            f"{dataset.name}: what its TOML names for {part} is no such part: {reasons[0]}"
        )
    raise MissingPartError(
        f"{dataset.name} has no part for {part}: {reasons[0]}; put it into a folder "
        f'{SPLITS[part][0]!r} beside, or name it in a TOML: {part} = "FOLDER"'
    )
