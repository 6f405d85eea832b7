"""A linear probe: how well the classes of a part to train on separate, by the CLIP paper's rules.

The strength is searched on the data's own validation split, or on a fifth of the training split;
see `evals.probe`. With folds each has a probe of its own, and figures are means over them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.clips import centre_frames
from clipperf.evals.datasets import Dataset
from clipperf.evals.fits import digest, kept_probe
from clipperf.evals.folds import Fold, check_folds, divides_itself, folds_of
from clipperf.evals.learning import (
    Samples,
    answers_of,
    centred,
    check_trained,
    checked,
    features_of,
    ranked,
    samples_of,
    told,
)
from clipperf.evals.metric import Scored, figures_of, measured
from clipperf.evals.outcome import Outcome
from clipperf.evals.probe import Probe, check_searchable, held_out, probe
from clipperf.evals.recipe import CLIP
from clipperf.evals.shots import over_repeats
from clipperf.evals.task import Embeddings, Task
from clipperf.text import number_of, quoted

NAME = "linear probe"


def found_on(train: Samples, validation: Samples | None, classes: int) -> Probe:
    """The probe of a part, which the store keeps."""
    parts = digest([*train, *(validation or ())])
    return kept_probe((NAME, classes, parts), lambda: probe(*train, classes, validation))


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    dataset, found = centre_frames(dataset, found)
    train = samples_of(dataset, found, "" if divides_itself(dataset) else "train")
    validation = samples_of(dataset, found, "validation") if "validation" in found.parts else None
    tests = features_of(found), answers_of(dataset)
    classes, folds = len(dataset.class_names), folds_of(dataset)
    if folds:
        pairs = ((_of(train, fold.train), _of(tests, fold.test)) for fold in folds)
        rows = _over(folds, [_rows(few, validation, own, classes) for few, own in pairs])
    else:
        rows = _rows(train, validation, tests, classes)
    return [told(row, found) for row in rows]


def _over(folds: list[Fold], rows: list[list[Outcome]]) -> list[Outcome]:
    said = f"mean over {len(folds)} folds; the first: "
    tested = [fold.test for fold in folds]
    same = zip(*rows, strict=True)
    return [replace(over_repeats(own, tested), detail=said + own[0].detail) for own in same]


def _of(samples: Samples, chosen: np.ndarray) -> Samples:
    return samples[0][chosen], samples[1][chosen]


def _rows(
    train: Samples, validation: Samples | None, tests: Samples, classes: int
) -> list[Outcome]:
    own = found_on(train, validation, classes)
    scores, right = own.linear.scores(tests[0]), tests[1]
    if right.dtype == bool:
        rows = measured(Scored(NAME, "multi-label", "image", scores, right))
    else:
        rows = measured(ranked(NAME, scores.copy(), right))
        if classes == 2:
            second = scores[:, 1:] - scores[:, :1], right[:, None] == 1
            rows += measured(Scored(NAME, "binary", "image", *second))
    where = "held-out" if validation is None else "validation"
    count = len(train[0]) + (0 if validation is None else len(validation[0]))
    said = (
        f"strength {own.linear.strength:.3g}, {where} score {own.best:.4f}, "
        f"{own.linear.iterations} iterations on {number_of(count, 'image')}"
    )
    return [replace(row, detail=said) for row in rows]


def _check(dataset: Dataset) -> None:
    train, validation = checked(dataset)
    check_folds(dataset)
    looked_at = centred(dataset)
    folds, tests = folds_of(looked_at), answers_of(looked_at)
    for fold in folds:
        where = f" in its fold {quoted(fold.name)}"
        check_trained(dataset, train[fold.train], tests[fold.test], where)
    if not folds:
        check_trained(dataset, train, tests)
    try:
        if validation is None:
            for few in [train[fold.train] for fold in folds] or [train]:
                held_out(few)
        else:
            check_searchable(validation)
    except UsageError as exc:
        raise UsageError(f"{dataset.name}: {exc}") from exc


def _figures(dataset: Dataset) -> list[str]:
    classes = len(dataset.class_names)
    if dataset.label_sets:
        return figures_of(NAME, "multi-label", classes)
    two = figures_of(NAME, "binary", 1) if classes == 2 else []
    return [*figures_of(NAME, "classification", classes), *two]


TASK = Task(
    name="linear-probe",
    fits=lambda dataset: bool(dataset.labels or dataset.label_sets),
    texts=lambda dataset: {},
    outcomes=_outcomes,
    parts=("train",),
    may_use=("validation",),
    asked=True,
    features=True,
    check=_check,
    figures=_figures,
    uses=lambda dataset: (CLIP,),
    needs="classes",
)
