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
    weights = classifier(dataset, found)
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


def classifier(dataset: Dataset, found: Embeddings) -> np.ndarray:
    """One weight vector a class, from the embeddings of however many prompts it has."""
    ends = np.cumsum([len(prompts) for prompts in dataset.prompt_sets])
    each = np.split(found.texts[PROMPTS], ends[:-1])
    return np.concatenate([classifier_weights(prompts[None]) for prompts in each])


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    return measured(ranked(dataset, found))


TASK = Task(
    name="zeroshot",
    fits=lambda dataset: bool(dataset.labels),
    texts=lambda dataset: {PROMPTS: dataset.prompts},
    outcomes=_outcomes,
)
