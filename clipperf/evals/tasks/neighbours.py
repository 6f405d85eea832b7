"""Frames beside a frame: PM-0 and PM-10 of ImageNet-Vid-Robust and YTBB-Robust.

(Shankar et al. 2021, "Do Image Classifiers Generalize Across Time?") The column ``anchor`` is 1
for the annotated frame of each clip and 0 for those beside it, up to ten before and behind. PM-0 is
the share of anchors that are right, PM-10 that of clips of which every frame is.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.clips import clips_of
from clipperf.evals.datasets import Dataset
from clipperf.evals.outcome import SHARE, Outcome
from clipperf.evals.ranks import hits_at
from clipperf.evals.task import Embeddings, Task
from clipperf.evals.tasks import zeroshot

COLUMN = "anchor"


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    frames = zeroshot.ranked(dataclasses.replace(dataset, clip="", groups=()), found)
    hits, predicted = hits_at(frames.ranks, 1), frames.predicted
    assert predicted is not None
    anchors, worst = [], []
    for frames_of in clips_of(dataset):
        own = [i for i in frames_of if dataset.columns[COLUMN][i] == "1"]
        if len(own) != 1:
            raise UsageError(
                f"{dataset.images[frames_of[0]]}: its clip must have one frame with 1 as its "
                f"{COLUMN}, and has {len(own)}"
            )
        anchors.append(own[0])
        # The frame that fails, where one does.
        worst.append(min(frames_of, key=lambda i: (hits[i], i != own[0])))
    labels = np.asarray(dataset.labels)
    chance = frames.chance(1)
    return [
        Outcome(f"zeroshot {name}", "image", SHARE, hits[at], predicted[at], labels[at], chance)
        for name, at, chance in (("PM-0", anchors, chance), ("PM-10", worst, None))
    ]


TASK = Task(
    name="neighbours",
    fits=lambda dataset: bool(dataset.clip and dataset.labels) and COLUMN in dataset.columns,
    texts=zeroshot.TASK.texts,
    outcomes=_outcomes,
)
