"""Zero-shot classification: images against prompts that name the classes."""

from __future__ import annotations

import numpy as np

from clipperf.evals.clips import clips_of, over_frames
from clipperf.evals.datasets import Dataset
from clipperf.evals.folds import check_folds, held_for_test
from clipperf.evals.groups import check_groups, figures_by_group, groups_of, parts_of
from clipperf.evals.metric import Ranked, Scored, figures_of, measured
from clipperf.evals.metrics.worst_group import figures_of_worst
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import classifier_weights, classify
from clipperf.evals.recipe import CLIP, GROUP
from clipperf.evals.task import Embeddings, Task

PROMPTS = "prompts"


def ranked(dataset: Dataset, found: Embeddings) -> Ranked:
    """The right class of every image, or clip, among all classes.

    The score of a class is the highest of the classifiers that are pooled for it.
    """
    images, first = over_frames(dataset, found)
    labels = np.asarray(dataset.labels)[first]
    pools = np.asarray(dataset.pools) if dataset.pools else None
    result = classify(images, classifier(dataset, found), labels, pools)
    return Ranked(
        "zeroshot",
        "classification",
        "image",
        result.ranks,
        candidates=len(dataset.class_names),
        groups=labels,
        predicted=result.predicted,
        parts=parts_of(dataset, first),
        slices=groups_of(dataset, first),
    )


def scored(dataset: Dataset, found: Embeddings) -> Scored:
    """How high every image scores every class, of which it may have several."""
    images, first = over_frames(dataset, found)
    weights = classifier(dataset, found)
    right = np.zeros((len(images), len(weights)), bool)
    for row, own in zip(right, first, strict=True):
        row[list(dataset.label_sets[own])] = True
    return Scored("zeroshot", "multi-label", "image", _scores(images, weights), right)


def second_of_two(dataset: Dataset, found: Embeddings) -> Scored:
    """How much higher every image scores the second of two classes than the first."""
    images, first = over_frames(dataset, found)
    scores = _scores(images, classifier(dataset, found))
    right = np.asarray(dataset.labels)[first, None] == 1
    return Scored("zeroshot", "binary", "image", scores[:, 1:] - scores[:, :1], right)


def _scores(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    scores: np.ndarray = images.astype(np.float64) @ weights.astype(np.float64).T
    return scores


def classifier(dataset: Dataset, found: Embeddings) -> np.ndarray:
    """One weight vector a class, or what is pooled for it, from however many prompts it has."""
    ends = np.cumsum([len(prompts) for prompts in dataset.prompt_sets])
    each = np.split(found.texts[PROMPTS], ends[:-1])
    return np.concatenate([classifier_weights(prompts[None]) for prompts in each])


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    dataset, found = held_for_test(dataset, found)
    if dataset.label_sets:
        return measured(scored(dataset, found))
    rows = measured(ranked(dataset, found))
    if len(dataset.class_names) == 2 and not dataset.pools:
        rows += measured(second_of_two(dataset, found))
    return rows


def check(dataset: Dataset) -> None:
    """Raise what would fail once all is embedded: clips, groups and folds that are none."""
    clips_of(dataset)
    check_groups(dataset)
    check_folds(dataset)


def _figures(dataset: Dataset) -> list[str]:
    classes = len(dataset.class_names)
    if dataset.label_sets:
        return figures_of("zeroshot", "multi-label", classes)
    two = classes == 2 and not dataset.pools
    own = figures_of("zeroshot", "classification", classes)
    return [
        *own,
        *(figures_of("zeroshot", "binary", 1) if two else ()),
        *(figures_of_worst("zeroshot", classes) if dataset.groups else ()),
        *(name for figure in own for name in figures_by_group(dataset, figure)),
    ]


TASK = Task(
    name="zeroshot",
    fits=lambda dataset: bool(dataset.labels or dataset.label_sets),
    texts=lambda dataset: {PROMPTS: dataset.prompts},
    outcomes=_outcomes,
    check=check,
    figures=_figures,
    uses=lambda dataset: (CLIP,) if dataset.label_sets else (GROUP, CLIP),
    needs="classes",
)
