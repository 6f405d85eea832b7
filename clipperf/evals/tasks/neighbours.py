"""Frames that hardly differ: ImageNet-Vid-Robust and YTBB-Robust's PM-0 and PM-k.

(Shankar et al. 2021, "Do Image Classifiers Generalize Across Time?") The column ``anchor`` names
the image whose neighbour in time each is, the anchor itself too. PM-0 is the share of anchors that
are classified right, PM-k that of anchors of which all neighbours are as well; published figures
are of the 10 frames before and the 10 behind.
"""

from __future__ import annotations

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.outcome import SHARE, Outcome
from clipperf.evals.ranks import hits_at
from clipperf.evals.task import Embeddings, Task
from clipperf.evals.tasks import zeroshot
from clipperf.text import quoted

COLUMN = "anchor"
FIGURES = ("neighbours PM-0", "neighbours PM-k")


def sets_of(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The anchors' indices [anchors], and the number of the anchor of each image [images].

    Raises:
        UsageError: an image's anchor is not there, or none of its own.
    """
    names = [image.name.removeprefix("images/") for image in dataset.images]
    said = [anchor.removeprefix("images/") for anchor in dataset.columns[COLUMN]]
    at = {name: i for i, name in enumerate(names)}
    place: dict[str, int] = {}
    for name, anchor in zip(names, said, strict=True):
        own = at.get(anchor)
        if own is None or said[own] != anchor:
            raise UsageError(f"{dataset.name}: {quoted(anchor)}, {name}'s anchor, is none")
        place.setdefault(anchor, own)
    numbers = {anchor: i for i, anchor in enumerate(place)}
    return np.array(list(place.values())), np.array([numbers[anchor] for anchor in said])


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    anchors, of = sets_of(dataset)
    hits = hits_at(zeroshot.ranked(dataset, found).ranks, 1)
    every = np.bincount(of, weights=~hits) == 0
    none = np.zeros(len(anchors), np.int64)
    return [
        Outcome(name, "image", SHARE, own, own, none, chance=None)
        for name, own in zip(FIGURES, (hits[anchors], every), strict=True)
    ]


def _check(dataset: Dataset) -> None:
    zeroshot.check(dataset)
    sets_of(dataset)


TASK = Task(
    name="neighbours",
    fits=lambda dataset: bool(dataset.labels) and COLUMN in dataset.columns and not dataset.clip,
    texts=zeroshot.TASK.texts,
    outcomes=_outcomes,
    check=_check,
    figures=lambda dataset: FIGURES,
    needs=f"one class an image, a column {COLUMN} that names an image, and no clip",
)
