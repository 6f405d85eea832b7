"""Retrieval between images and captions, both ways."""

from __future__ import annotations

import numpy as np

from clipperf.evals.datasets import Dataset
from clipperf.evals.metric import Ranked, figures_of, measured
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import retrieve
from clipperf.evals.task import Embeddings, Task

CAPTIONS = "captions"


def ranked(dataset: Dataset, found: Embeddings) -> tuple[Ranked, Ranked]:
    """Every caption's image among all images, and every image's captions among all captions."""
    captions, owner = found.texts[CAPTIONS], np.asarray(dataset.caption_image)
    result = retrieve(found.images, captions, owner)
    per_image = np.bincount(owner, minlength=len(found.images))
    to_image = Ranked(
        "text-to-image",
        "retrieval",
        "text",
        result.text_to_image,
        candidates=len(found.images),
        groups=owner,
        clustered=bool(per_image.max() > 1),
    )
    to_text = Ranked(
        "image-to-text",
        "retrieval",
        "image",
        result.image_to_text,
        candidates=len(captions),
        groups=np.arange(len(found.images)),
        right=per_image,
    )
    return to_image, to_text


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    return [outcome for ranks in ranked(dataset, found) for outcome in measured(ranks)]


TASK = Task(
    name="retrieval",
    fits=lambda dataset: bool(dataset.captions),
    texts=lambda dataset: {CAPTIONS: dataset.captions},
    outcomes=_outcomes,
    figures=lambda dataset: [
        *figures_of("text-to-image", "retrieval", len(dataset.images)),
        *figures_of("image-to-text", "retrieval", len(dataset.captions)),
    ],
    needs="captions",
)
