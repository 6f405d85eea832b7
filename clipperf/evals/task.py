"""Tasks: what a model is asked to do with a dataset. A task is one record in a file of `tasks`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.columns import check_columns
from clipperf.evals.datasets import Dataset
from clipperf.evals.layout import few
from clipperf.evals.metric import ANY
from clipperf.evals.outcome import Outcome
from clipperf.evals.recipe import CLIP, GROUP
from clipperf.registry import Registry
from clipperf.text import quoted


@dataclass(frozen=True)
class Embeddings:
    """A dataset as one runtime sees it, all L2-normalised float32.

    `images` [images, dim]; `texts` [texts, dim] by the names that tasks give their texts; `parts`
    are the images of the dataset's other parts. `features` [images, width], as they come, are what
    was computed of these, or of the images themselves (""), before the projection; none where they
    were not asked for.
    """

    images: np.ndarray
    texts: Mapping[str, np.ndarray] = field(default_factory=dict)
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    features: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One kind of evaluation.

    `fits(dataset)` says whether the dataset has what it needs. `texts(dataset)` are the texts to
    embed beside all images, by name ("captions", "prompts"); tasks may share them.
    `outcomes(dataset, embeddings)` are its figures, in the order of the rows: most often what
    `metric.measured` makes of ranks. `parts` are the other parts of the data that it needs
    embedded, `may_use` those that it uses where they are there. One that runs only where it is
    `asked` for is left out where no task is named. With `features`
    it looks at these where there are any. `check(dataset)` raises what would fail once all
    is embedded, and can be told before: columns, answers, packages. `figures(dataset)` are the
    names that its figures may have, `metric.ANY` for those that are not known before.
    `needs` says in words what `fits` asks for: of which columns, classes or captions it is.
    `uses(dataset)` says which of "group" and "clip", as a recipe names them, it goes by.
    """

    name: str
    fits: Callable[[Dataset], bool]
    texts: Callable[[Dataset], Mapping[str, Sequence[str]]]
    outcomes: Callable[[Dataset, Embeddings], list[Outcome]]
    parts: tuple[str, ...] = ()
    may_use: tuple[str, ...] = ()
    asked: bool = False
    features: bool = False
    check: Callable[[Dataset], None] = lambda dataset: None
    figures: Callable[[Dataset], Iterable[str]] = lambda dataset: (ANY,)
    uses: Callable[[Dataset], Collection[str]] = lambda dataset: ()
    needs: str = ""


TASKS: Registry[Task] = Registry(
    "task", room="clipperf.evals.tasks", first=("zeroshot", "retrieval")
)
"""Every task, in the order of the rows."""


def fitting(dataset: Dataset) -> list[Task]:
    """The tasks that the dataset has data for, of those that it wants.

    Raises:
        UsageError: it wants one that there is not, or has no data for it.
    """
    wanted = [TASKS.get(name) for name in dataset.tasks]
    for task in wanted:
        if not task.fits(dataset):
            raise UsageError(_unfit(dataset, task))
    return wanted or [task for task in TASKS if task.fits(dataset) and not task.asked]


def _unfit(dataset: Dataset, task: Task) -> str:
    """That a dataset is none for a task, what it would take, and which columns there are."""
    said = f"{dataset.name} has no data for the task {task.name}"
    columns = f"; its columns are {few(dataset.columns, 20)}" if dataset.columns else ""
    return f"{said}: it needs {task.needs}{columns}" if task.needs else said


def check(dataset: Dataset) -> None:
    """Raise before anything is embedded what can be told of a dataset, its tasks and metrics.

    Raises:
        ClipperfError: a task lacks something, or there is no such metric, or nothing to score.
    """
    check_columns(dataset)
    tasks = fitting(dataset)
    unused(dataset)
    for task in tasks:
        task.check(dataset)
    texts_of(dataset)
    figures = [figure for task in tasks for figure in task.figures(dataset)]
    if not figures:
        raise nothing_to_score(dataset)
    if not any(figure.endswith(ANY) for figure in figures):
        _check_metrics(dataset, figures)


def unused(dataset: Dataset) -> tuple[str, ...]:
    """What a recipe asks for and some of the tasks do not go by, in words.

    Raises:
        UsageError: none of the tasks goes by it.
    """
    tasks, notes = fitting(dataset), []
    for name in dataset.recipe_asks:
        others = [task.name for task in tasks if name not in task.uses(dataset)]
        if not others:
            continue
        said = f"{dataset.name}: {name} is of no use to {', '.join(others)}: {WITHOUT[name]}"
        if len(others) == len(tasks):
            able = [t.name for t in TASKS if t.fits(dataset) and name in t.uses(dataset)]
            more = f", or ask for {' or '.join(able)}" if able else ""
            raise UsageError(f"{said}; leave it out of the TOML{more}")
        notes.append(said)
    return tuple(notes)


WITHOUT = {
    GROUP: "its figures are of all images, not of groups",
    CLIP: "each image counts by itself, not each clip",
}
"""What becomes of that which a task does not go by."""


def check_features_used(dataset: Dataset) -> None:
    """Raise UsageError where features were asked for, and no task looks at them."""
    if not any(task.features for task in fitting(dataset)):
        known = " or ".join(f"--task {task.name}" for task in TASKS if task.features)
        raise UsageError(f"--features are for probes, and {dataset.name} has none: add {known}")


def outcomes_of(dataset: Dataset, embeddings: Embeddings) -> list[Outcome]:
    """The figures of these tasks, of the metrics that the dataset wants: "top-1" or the full name.

    Those of groups come with the figure of all that they are of.

    Raises:
        UsageError: it wants one that there is not; the message lists what there is.
    """
    found = [o for task in fitting(dataset) for o in task.outcomes(dataset, embeddings)]
    if not dataset.metrics:
        return [outcome for outcome in found if outcome.usual]
    _check_metrics(dataset, [outcome.metric for outcome in found])
    wanted = dataset.metrics
    return [o for o in found if any(_is_called(n, m) for n in (o.metric, o.whole) for m in wanted)]


def _is_called(figure: str, metric: str) -> bool:
    """Whether a figure is the metric that is meant, with or without the name of its answers."""
    return f" {figure}".endswith(f" {metric}")


def _check_metrics(dataset: Dataset, figures: Sequence[str]) -> None:
    for metric in dataset.metrics:
        if not any(_is_called(f, metric) or f" {metric}, " in f" {f}" for f in figures):
            # In quotes: there are commas in some of them.
            known = ", ".join(quoted(figure) for figure in figures)
            raise UsageError(f"{dataset.name}: no metric {quoted(metric)}; choose from {known}")


def nothing_to_score(dataset: Dataset) -> UsageError:
    """What to raise where no task has a figure that could miss."""
    asked = [task.name for task in TASKS if task.asked and _has_figures(task, dataset)]
    more = f"; ask for --task {', '.join(asked)}" if asked and not dataset.tasks else ""
    said = "it takes two classes, or two images with captions"
    if len(dataset.class_names) == 1:
        said = (
            f"all of its images are of one class, {quoted(dataset.class_names[0])}: give it images "
            "of another, or one more name to tell them from (a line of classnames.txt; of class "
            "folders, an empty folder that classes.json names)"
        )
    return UsageError(f"nothing to score in {dataset.name}: {said}{more}")


def _has_figures(task: Task, dataset: Dataset) -> bool:
    """Whether a task would have something to say of a dataset."""
    try:
        return task.fits(dataset) and any(task.figures(dataset))
    except UsageError:  # groups, words or places that are none
        return False


def texts_of(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The texts that these tasks need embedded, by name.

    Raises:
        UsageError: two tasks give other texts the same name.
    """
    found: dict[str, tuple[str, ...]] = {}
    for task in fitting(dataset):
        for name, texts in task.texts(dataset).items():
            if found.setdefault(name, tuple(texts)) != tuple(texts):
                raise UsageError(f"task {task.name}: another task calls other texts {name!r}")
    return dict(sorted(found.items()))
