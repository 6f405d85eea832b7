"""Scores beside figures that others have published: how far apart they may be, and what differs.

Two runs of one model on one set need not agree: CLIP-as-service's and LAION's tables, which both
come from CLIP_benchmark, differ by 0.1 points in the median and by up to 0.7 in nine of ten of
their 252 figures (18 on diabetic_retinopathy). So a score is flagged where a figure lies outside
of its own 95 % interval by more than such runs are known to differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.figures import Figures, OwnFigure, OwnTable, spread_of
from clipperf.evals.layout import DEFAULT_TEMPLATES
from clipperf.evals.published import SETS, clip_benchmark_texts, flat
from clipperf.evals.recipe import prompts_of
from clipperf.evals.suites import METRICS, RECALLS_AT_5
from clipperf.models.dataset_names import CLIP_AS_SERVICE_RETRIEVAL
from clipperf.models.published import (
    CLIP_AS_SERVICE,
    CLIP_PAPER,
    LAION,
    OPEN_CLIP,
    Published,
    model_key,
)
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Score
from clipperf.nouns.variant import PRECISIONS
from clipperf.text import quoted


class Nearness(Enum):
    """What a figure says of a score."""

    AGREES = "agrees"
    APART = "further apart"
    OTHER = "not comparable"


@dataclass(frozen=True)
class Beside:
    """A runtime's `value` beside a published `figure` of the same model, dataset and metric.

    `ci95` belongs to the value, which stands for several scores where the metric is their mean.
    `allowed` is the distance that sampling and the spread between published runs explain.
    `differs` names what of the protocol is known to be another.
    """

    cell: Cell
    env_id: str
    figure: Published
    value: float
    n: int
    ci95: tuple[float, float]
    allowed: float
    differs: tuple[str, ...]
    nearness: Nearness

    @property
    def difference(self) -> float:
        """The value minus the figure."""
        return self.value - self.figure.value


CLIP_BENCHMARK_PROMPTS = "clip-benchmark's"

PROMPTS = {
    LAION: CLIP_BENCHMARK_PROMPTS,
    CLIP_AS_SERVICE: CLIP_BENCHMARK_PROMPTS,
    OPEN_CLIP: "DataComp's",
    CLIP_PAPER: "the paper's",
}
"""Whose prompts a source took, by how it begins."""

AUTOCAST = {LAION: "autocast"}
"""What a source computed in, CLIP_benchmark's default; the others do not say."""

FLICKR = (
    "CLIP-as-service's Flickr figures lie far below everyone else's for the same weights: no test "
    "split of 1,000 images"
)

_DIRECTIONS = {"image_retrieval": "text-to-image", "text_retrieval": "image-to-text"}

NAMES: dict[str, tuple[str, ...]] = {
    **METRICS,
    "acc5": ("zeroshot top-5",),
    "mean_average_precision": ("zeroshot mAP",),
    **{
        f"{theirs}_recall@{k}": (f"{ours} recall@{k}",)
        for theirs, ours in _DIRECTIONS.items()
        for k in (1, 5, 10)
    },
    "mean_recall@5": RECALLS_AT_5,
}
"""The scores whose mean is a published metric: "image retrieval" finds an image for a text."""

LINEAR_PROBE = "linear_probe_"


def names_of(metric: str) -> tuple[str, ...]:
    """The scores whose mean is a published metric, or one of a table of one's own."""
    if metric.startswith(LINEAR_PROBE):
        own = names_of(metric.removeprefix(LINEAR_PROBE))
        return tuple(name.replace("zeroshot", "linear probe") for name in own)
    return NAMES.get(metric, (metric,))


def beside(
    scores: Sequence[Score],
    specs: Sequence[ModelSpec],
    figures: Figures,
    prompts: Mapping[str, str],
) -> list[Beside]:
    """Every published figure of the models that were scored, on the datasets and metrics that were.

    `prompts` says for each dataset whose were taken, as `whose_prompts` does.
    """
    by_id = {spec.id: spec for spec in specs}
    groups: dict[tuple[Cell, str, str], dict[str, Score]] = {}
    for score in scores:
        cell = replace(score.cell, side="image", tokens=None)  # whichever side queries
        groups.setdefault((cell, score.dataset, score.env_id), {})[score.metric] = score
    found = []
    for (cell, dataset, _), own in groups.items():
        spec = by_id.get(cell.model_id)
        if spec is None or spec.random_weights:
            continue
        for figure in figures(spec.architecture, spec.pretrained):
            parts = [own[name] for name in names_of(figure.metric) if name in own]
            if len(parts) == len(names_of(figure.metric)) and _same(dataset, figure.dataset):
                found.append(_beside(cell, parts, figure, prompts.get(dataset, "")))
    return found


Asked = tuple[str, str, str, str]
"""Of what a score is, as a table of one's own has it: model, pretrained, dataset, metric."""


def check_models(table: Figures, specs: Sequence[ModelSpec], given: str) -> None:
    """Raise UsageError where a table of one's own has no line of any of the models."""
    trained = [spec for spec in specs if not spec.random_weights]
    if not isinstance(table, OwnTable) or any(
        table(spec.architecture, spec.pretrained) for spec in trained
    ):
        return
    asked = [(spec.architecture, spec.pretrained, "", "") for spec in trained]
    raise UsageError(f"--against {given}: {_nearest(table, asked, COLUMNS[:2])}")


def why_nothing(table: OwnTable, scores: Sequence[Score], specs: Sequence[ModelSpec]) -> str:
    """Why no line of a table of one's own is of any of the scores: what the nearest one has."""
    by_id = {spec.id: spec for spec in specs if not spec.random_weights}
    asked = [
        (spec.architecture, spec.pretrained, score.dataset, score.metric)
        for score in scores
        if (spec := by_id.get(score.cell.model_id)) is not None
    ]
    return _nearest(table, asked, COLUMNS)


COLUMNS = ("model", "pretrained", "dataset", "metric")


def _nearest(table: OwnTable, asked: Sequence[Asked], columns: Sequence[str]) -> str:
    """The line that has most in common with anything that was asked, and what it has not.

    Of those that have as much the one whose model is right.
    """
    if not asked:
        return "what is evaluated has random weights, of which there are no figures"
    asked = list(dict.fromkeys(asked))
    row, one, other = _nearest_pair(table.rows, asked, columns)
    said = []
    for column in other:
        place = COLUMNS.index(column)
        # Of the others alike: a figure may be there by several names.
        alike = [each[place] for each in asked if each[:place] == one[:place]]
        values = " or ".join(map(quoted, dict.fromkeys(alike)))
        said.append(f"{column} {quoted(_written(row)[place])} where {values} was asked for")
    if not said:
        parts = ", ".join(map(quoted, names_of(row.figure.metric)))
        said = [f"metric {quoted(row.figure.metric)}, the mean of {parts}, not all of them here"]
    named = " and the ".join(said)
    return f"no line is of what is evaluated; the nearest, line {row.line}, has the {named}"


def _nearest_pair(
    rows: Sequence[OwnFigure], asked: Sequence[Asked], columns: Sequence[str]
) -> tuple[OwnFigure, Asked, list[str]]:
    """The first that have most in common, and the columns in which they have not.

    A table has many lines and few values: each of these is held against what was asked for once.
    """
    known = [_key(*one) for one in asked]
    key_of = cache(_key)

    @cache
    def matching(column: str, published: str) -> tuple[bool, ...]:
        """Which of what was asked for a value of a line is."""
        own = [one[COLUMNS.index(column)] for one in known]
        same = {each: _is(column, each, published) for each in dict.fromkeys(own)}
        return tuple(same[each] for each in own)

    kinds: dict[tuple[tuple[bool, ...], ...], OwnFigure] = {}
    for row in rows:
        values = zip(columns, key_of(*_written(row)), strict=False)
        kinds.setdefault(tuple(matching(*value) for value in values), row)
    pairs = [
        (row, one, [column for column, has in zip(columns, found, strict=True) if not has])
        for kind, row in kinds.items()
        for one, found in zip(asked, zip(*kind, strict=True), strict=True)
    ]
    return min(pairs, key=lambda pair: _distance(pair[2]))


def _distance(other: Sequence[str]) -> tuple[int, list[int]]:
    return len(other), [-COLUMNS.index(column) for column in other]


def _written(row: OwnFigure) -> Asked:
    return row.model, row.pretrained, row.figure.dataset, row.figure.metric


def _key(model: str, pretrained: str, dataset: str, metric: str) -> Asked:
    """The same with what all spellings of the model have in common."""
    return *model_key(model, pretrained), dataset, metric


def _is(column: str, own: str, published: str) -> bool:
    """Whether a column of a line is what was asked for; models as `_key` has them."""
    if column == "dataset":
        return _same(own, published)
    return own in names_of(published) if column == "metric" else own == published


def _beside(cell: Cell, parts: Sequence[Score], figure: Published, prompts: str) -> Beside:
    def mean(read: Callable[[Score], float]) -> float:
        return sum(map(read, parts)) / len(parts)

    value, low, high = mean(lambda s: s.value), mean(lambda s: s.ci95[0]), mean(lambda s: s.ci95[1])
    spread = spread_of(figure.dataset)
    allowed = spread + (value - low if figure.value < value else high - value)
    nearness = Nearness.AGREES if abs(value - figure.value) <= allowed else Nearness.APART
    differs = tuple(_differences(cell, figure, prompts))
    if FLICKR in differs:
        nearness = Nearness.OTHER
    n = min(score.n for score in parts)
    env_id = parts[0].env_id
    return Beside(cell, env_id, figure, value, n, (low, high), allowed, differs, nearness)


def _differences(cell: Cell, figure: Published, prompts: str) -> Iterator[str]:
    """What is known to differ between this run and a published one."""
    source = next((name for name in PROMPTS if figure.source.startswith(name)), "")
    if figure.dataset in _OTHER_SPLITS:
        yield FLICKR
    theirs = PROMPTS.get(source, "")
    if prompts and theirs and prompts != theirs and "recall@" not in figure.metric:
        yield f"prompts: {prompts} here, {theirs} there"
    computed = AUTOCAST.get(source)
    if computed or not PRECISIONS.get(cell.precision).is_baseline:
        yield f"precision: {cell.precision} here" + (f", {computed} there" if computed else "")


_OTHER_SPLITS = {
    split: own for own, split in CLIP_AS_SERVICE_RETRIEVAL.items() if split.startswith(f"{own} ")
}
"""Datasets that bear a name of their own, as figures on them are of another split."""


def _same(own: str, published: str) -> bool:
    """Whether two names mean one dataset: a folder bears the name that the hub gives it."""
    name = _OTHER_SPLITS.get(published, published)
    return own in _spellings(name) or name in _spellings(own)


def _spellings(name: str) -> tuple[str, ...]:
    known = SETS.get(name)
    return name, flat(name), f"wds_{flat(name)}", known.folder if known else name


def whose_prompts(dataset: Dataset) -> str:
    """Whose class names and templates a dataset is scored with; "" where it has no classes."""
    if not dataset.class_names:
        return ""
    name = next((n for n in SETS if _same(dataset.name, n)), "")
    try:
        names, templates = clip_benchmark_texts(name) if name else ([], [])
    except (MissingDependencyError, UsageError):
        names, templates = [], []
    if names and dataset.prompt_sets == tuple(prompts_of(each, templates) for each in names):
        return CLIP_BENCHMARK_PROMPTS
    if dataset.templates == DEFAULT_TEMPLATES and not dataset.class_prompts:
        return f"the {len(DEFAULT_TEMPLATES)} of clipperf"
    return "those of the data"
