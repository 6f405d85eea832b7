"""Few shots: probes of 1, 2, 4, 8, 16 samples a class beside the zero-shot classifier.

A recipe may say which and how often: ``shots = [1, 2, 4]``, ``repeats = 5``. See `evals.shots`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.clips import centre_frames
from clipperf.evals.datasets import Dataset
from clipperf.evals.fits import digest, kept_probe
from clipperf.evals.folds import divides_itself
from clipperf.evals.learning import (
    answers_of,
    check_trained,
    checked,
    features_of,
    ranked,
    samples_of,
    told,
)
from clipperf.evals.metric import figures_of, measured
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import hits_at
from clipperf.evals.recipe import CLIP
from clipperf.evals.shots import (
    REPEATS,
    SHOTS,
    check_shots,
    few_shot,
    most_shots,
    over_repeats,
    shots_equal_to,
)
from clipperf.evals.task import Embeddings, Task
from clipperf.evals.tasks import zeroshot

TOP = "-shot top-1"


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    zero = float(np.mean(hits_at(zeroshot.ranked(dataset, found).ranks, 1)))
    dataset, found = centre_frames(dataset, found)
    train = samples_of(dataset, found, "train")
    validation = samples_of(dataset, found, "validation") if "validation" in found.parts else None
    labels, repeats = answers_of(dataset), dataset.repeats or REPEATS
    shots = _shots(dataset, train[1])
    parts = digest([*train, *(validation or ())])
    rows: list[list[Outcome]] = []
    for count in shots:
        draws: list[list[Outcome]] = []
        for repeat in range(repeats):
            made = partial(few_shot, *train, len(dataset.class_names), count, repeat, validation)
            linear = kept_probe(("few-shot", count, repeat, parts), made).linear
            scores = linear.scores(features_of(found))
            draws.append(measured(ranked(f"{count}-shot", scores, labels)))
        rows.append([over_repeats(same) for same in zip(*draws, strict=True)])
    details = {True: _said(zero, shots, rows, repeats), False: ""}
    return [
        told(replace(row, detail=details[row.metric.endswith(TOP)]), found)
        for own in rows
        for row in own
    ]


def _shots(dataset: Dataset, labels: np.ndarray) -> tuple[int, ...]:
    """How many samples a class, from few to many: those asked for, else what there is enough of.

    `labels` are those of the samples to train on.

    Raises:
        UsageError: a class has none, or fewer than are asked for.
    """
    classes = len(dataset.class_names)
    check_trained(dataset, labels, np.arange(classes))  # tested or not: each is drawn of
    if not dataset.shots:
        return tuple(count for count in SHOTS if count <= most_shots(labels, classes))
    try:
        check_shots(labels, classes, max(dataset.shots))
    except UsageError as exc:
        raise UsageError(f"{dataset.name}: {exc}") from exc
    return tuple(sorted(set(dataset.shots)))


def _said(zero: float, shots: tuple[int, ...], rows: list[list[Outcome]], repeats: int) -> str:
    """How often was drawn, and how many shots the zero-shot classifier's top-1 is worth."""
    top = [row.value for own in rows for row in own if row.metric.endswith(TOP)]
    worth = shots_equal_to(zero, shots, top)
    return f"{repeats} draws; zero-shot top-1, {zero:.4f}, is worth {worth} shots"


def _check(dataset: Dataset) -> None:
    if divides_itself(dataset):
        raise UsageError(f"{dataset.name}: few shots are drawn of a part to train on, not of folds")
    zeroshot.check(dataset)
    _shots(dataset, checked(dataset)[0])


def _figures(dataset: Dataset) -> list[str]:
    classes = len(dataset.class_names)
    # Without a part to train on these are what there would be of any.
    counts = _shots(dataset, checked(dataset)[0]) if "train" in dataset.parts else SHOTS
    return [f for count in counts for f in figures_of(f"{count}-shot", "classification", classes)]


TASK = Task(
    name="few-shot",
    fits=lambda dataset: bool(dataset.labels) and len(dataset.class_names) > 1,
    texts=zeroshot.TASK.texts,
    outcomes=_outcomes,
    parts=("train",),
    may_use=("validation",),
    asked=True,
    features=True,
    check=_check,
    figures=_figures,
    uses=lambda dataset: (CLIP,),
    needs="two classes or more, and one of them an image",
)
