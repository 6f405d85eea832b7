"""Videos as frames: images of one clip, by a column or a folder, in the order of the data."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Sequence

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.columns import FOLDER, column_of
from clipperf.evals.datasets import Dataset
from clipperf.evals.layout import few
from clipperf.evals.ranks import normalize
from clipperf.evals.task import Embeddings
from clipperf.text import quoted


def clips_of(dataset: Dataset) -> list[np.ndarray]:
    """The indices of each clip's frames, clips in the order of their first frames.

    Where a dataset has no clips each image is one. "folder", where that is no column, means the
    folder that an image lies in.

    Raises:
        UsageError: there is no such column, or a clip's frames have several classes.
    """
    if not dataset.clip:
        return list(np.arange(len(dataset.images))[:, None])
    clips = _by_name(dataset)
    answers = dataset.label_sets or dataset.labels
    for name, own in clips.items():
        if answers and len({answers[i] for i in own}) > 1:
            raise UsageError(f"{dataset.name}: the frames of clip {quoted(name)} differ in class")
    return [np.asarray(own) for own in clips.values()]


def check_clips_agree(dataset: Dataset, values: Sequence[str], what: str) -> None:
    """Raise UsageError where the frames of a clip differ in `what` is said of every image.

    A clip is looked at once, by one of its frames: what holds for that must hold for all.
    """
    for name, own in _by_name(dataset).items() if dataset.clip else ():
        said = dict.fromkeys(values[i] or "nothing" for i in own)
        if len(said) > 1:
            raise UsageError(
                f"{dataset.name}: the frames of clip {quoted(name)} differ in {what} "
                f"({few(said)}), and a clip counts once: give all of its frames the same"
            )


def _by_name(dataset: Dataset) -> dict[str, list[int]]:
    """The indices of each clip's frames.

    Raises:
        UsageError: nothing names the clips, or not that of an image.
    """
    if dataset.clip == FOLDER and FOLDER not in dataset.columns:
        named = tuple(posixpath.dirname(image.name) for image in dataset.images)
    else:
        named = column_of(dataset, dataset.clip, " that names clips")
    frames: dict[str, list[int]] = {}
    for i, name in enumerate(named):
        if not name and dataset.clip != FOLDER:
            raise UsageError(f"{dataset.images[i]}: its {dataset.clip} is empty: name its clip")
        frames.setdefault(name, []).append(i)
    return frames


def over_frames(dataset: Dataset, found: Embeddings) -> tuple[np.ndarray, np.ndarray]:
    """One embedding a clip, the mean over its frames, and the index of its first frame.

    The mean of L2-normalised embeddings is normalised again: float32 [clips, dim].
    """
    clips = clips_of(dataset)
    first = np.array([own[0] for own in clips])
    if len(clips) == len(found.images):
        return found.images, first
    means = [found.images[own].mean(axis=0, dtype=np.float64) for own in clips]
    return normalize(np.stack(means)), first


def centre_frames(dataset: Dataset, found: Embeddings) -> tuple[Dataset, Embeddings]:
    """The dataset and its parts with the centre frame of each clip alone, and their embeddings."""
    if not dataset.clip:
        return dataset, found
    kept, chosen = centres(dataset)
    parts = {name: centres(part) for name, part in dataset.parts.items()}
    places = {"": chosen, **{name: own for name, (_, own) in parts.items()}}
    return (
        dataclasses.replace(kept, parts={name: own for name, (own, _) in parts.items()}),
        Embeddings(
            found.images[chosen],
            found.texts,
            {name: rows[places[name]] for name, rows in found.parts.items()},
            {name: rows[places[name]] for name, rows in found.features.items()},
        ),
    )


def centres(dataset: Dataset) -> tuple[Dataset, np.ndarray]:
    """A dataset with the centre frame of each clip alone, and which of its images these are."""
    chosen = np.array([own[len(own) // 2] for own in clips_of(dataset)])
    return only_images(dataset, chosen), chosen


def only_images(dataset: Dataset, chosen: np.ndarray) -> Dataset:
    """A dataset of classes with these of its images."""

    def own(values: tuple) -> tuple:  # type: ignore[type-arg]
        return tuple(values[i] for i in chosen) if values else ()

    return dataclasses.replace(
        dataset,
        images=own(dataset.images),
        labels=own(dataset.labels),
        label_sets=own(dataset.label_sets),
        columns={name: own(values) for name, values in dataset.columns.items()},
    )
