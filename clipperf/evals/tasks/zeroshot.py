"""Zero-shot classification: images against prompts that name the classes."""

from __future__ import annotations

import numpy as np

from clipperf.evals.datasets import Dataset
from clipperf.evals.metric import Ranked, Scored, measured
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


def scored(dataset: Dataset, found: Embeddings) -> Scored:
    """How high every image scores every class, of which it may have several."""
    weights = classifier(dataset, found)
    right = np.zeros((len(found.images), len(weights)), bool)
    for row, labels in zip(right, dataset.label_sets, strict=True):
        row[list(labels)] = True
    return Scored("zeroshot", "multi-label", "image", _scores(found, weights), right)


def second_of_two(dataset: Dataset, found: Embeddings) -> Scored:
    """How much higher every image scores the second of two classes than the first."""
    scores = _scores(found, classifier(dataset, found))
    right = np.asarray(dataset.labels)[:, None] == 1
    return Scored("zeroshot", "binary", "image", scores[:, 1:] - scores[:, :1], right)


def _scores(found: Embeddings, weights: np.ndarray) -> np.ndarray:
    scores: np.ndarray = found.images.astype(np.float64) @ weights.astype(np.float64).T
    return scores


def classifier(dataset: Dataset, found: Embeddings) -> np.ndarray:
    """One weight vector a class, from the embeddings of however many prompts it has."""
    ends = np.cumsum([len(prompts) for prompts in dataset.prompt_sets])
    each = np.split(found.texts[PROMPTS], ends[:-1])
    return np.concatenate([classifier_weights(prompts[None]) for prompts in each])


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    if dataset.label_sets:
        return measured(scored(dataset, found))
    rows = measured(ranked(dataset, found))
    if len(dataset.class_names) == 2:
        rows += measured(second_of_two(dataset, found))
    return rows


TASK = Task(
    name="zeroshot",
    fits=lambda dataset: bool(dataset.labels or dataset.label_sets),
    texts=lambda dataset: {PROMPTS: dataset.prompts},
    outcomes=_outcomes,
)
