"""Zero-shot classification: images against prompts that name the classes."""

from __future__ import annotations

import numpy as np

from clipperf.evals.datasets import Dataset
from clipperf.evals.metric import Ranked, measured
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import classifier_weights, classify
from clipperf.evals.task import Embeddings, Task

PROMPTS = "prompts"


def ranked(dataset: Dataset, found: Embeddings) -> Ranked:
    """The right class of every image among all classes."""
    labels = np.asarray(dataset.labels)
    shape = (len(dataset.class_names), len(dataset.templates), -1)
    weights = classifier_weights(found.texts[PROMPTS].reshape(shape))
    result = classify(found.images, weights, labels)
    return Ranked(
        "zeroshot",
        "classification",
        "image",
        result.ranks,
        candidates=len(weights),
        groups=labels,
        predicted=result.predicted,
    )


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    return measured(ranked(dataset, found))


TASK = Task(
    name="zeroshot",
    fits=lambda dataset: bool(dataset.labels),
    texts=lambda dataset: {PROMPTS: dataset.prompts},
    outcomes=_outcomes,
)
