"""Figures that a score can be held against: the published tables, or a table of one's own."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from clipperf.errors import UsageError
from clipperf.inputs.sources import ImageSource, read_text
from clipperf.models.published import (
    CLIP_AS_SERVICE,
    LAION,
    Published,
    every_published,
    model_key,
    published_accuracy,
)
from clipperf.system.targets import expanded
from clipperf.text import quoted

PUBLISHED = "published"

Figures = Callable[[str, str], Sequence[Published]]
"""The figures of an architecture and a tag."""


@dataclass(frozen=True)
class OwnFigure:
    """A figure of a table of one's own: of which model, as it is written in which line."""

    line: int
    model: str
    pretrained: str
    figure: Published


@dataclass(frozen=True)
class OwnTable:
    """A table of one's own; called as `Figures` are."""

    rows: tuple[OwnFigure, ...]

    def __call__(self, architecture: str, tag: str) -> Sequence[Published]:
        """The figures of a model."""
        return self._by_model.get(model_key(architecture, tag), [])

    @cached_property
    def _by_model(self) -> dict[tuple[str, str], list[Published]]:
        found: dict[tuple[str, str], list[Published]] = {}
        for row in self.rows:
            found.setdefault(model_key(row.model, row.pretrained), []).append(row.figure)
        return found


SPREAD = 0.007
"""How far 90 % of the figures that two published runs of the same models share lie apart."""

METRIC = re.compile(
    r"acc[15]|mean_per_class_recall|mean_average_precision|(image|text)_retrieval_recall@\d+"
)
"""Columns of CLIP_benchmark's own tables that hold a figure."""

KEYS = ("model", "pretrained", "dataset")
FORM = (
    "columns model, pretrained, dataset, metric and value, or those that `clip_benchmark build` "
    "writes (model, pretrained, dataset, acc1, acc5, ...)"
)


def figures_of(given: str) -> Figures:
    """What --against means: "published", or the CSV of a table of one's own.

    Raises:
        UsageError: there is no such file, or a line is none of such a table.
    """
    if given == PUBLISHED:
        return published_accuracy
    path = expanded(given)
    if not path.is_file():
        what = "is no file" if path.exists() else "is not there"
        raise UsageError(f"--against {quoted(given)} {what}: give {PUBLISHED}, or a CSV file")
    source = ImageSource(path.name, path)
    table = OwnTable(tuple(_rows(source, path.name)))
    if not table.rows:
        raise UsageError(f"{source} holds no figures; it takes {FORM}")
    return table


def _rows(source: ImageSource, name: str) -> Iterator[OwnFigure]:
    """The figures of a CSV; where it has no column "source", they are from the file's `name`."""
    reader = csv.DictReader(io.StringIO(read_text(source), newline=""), strict=True)
    try:
        header = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = header
        long = {"metric", "value"} <= set(header)
        metrics = [column for column in header if METRIC.fullmatch(column)]
        if not header:
            raise UsageError(f"{source} is empty; it takes {FORM}")
        if not set(KEYS) <= set(header) or not (long or metrics):
            raise UsageError(f"{source}: the header is {', '.join(header)}; it takes {FORM}")
        for row in reader:
            where = f"{source} line {reader.line_num}"
            if None in row or None in row.values():
                raise UsageError(f"{where}: it has another number of fields than the header")
            who = reader.line_num, row["model"].strip(), row["pretrained"].strip()
            pairs = [(row["metric"], row["value"])] if long else [(m, row[m]) for m in metrics]
            for metric, value in pairs:
                if value.strip():
                    share = _share(value, f"{where}: {metric}")
                    told = row.get("source", "").strip() or name
                    yield OwnFigure(
                        *who, Published(row["dataset"].strip(), metric.strip(), share, told)
                    )
    except csv.Error as exc:
        raise UsageError(f"{source} line {reader.line_num}: {exc}") from exc


def _share(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UsageError(f"{where} is {quoted(text)}: figures are shares of one, from 0 to 1")
    return value


def spread_of(dataset: str) -> float:
    """How far published runs of one model lie apart on a dataset: `SPREAD`, or the most seen."""
    return max(SPREAD, _widest().get(dataset, 0.0))


@cache
def _widest() -> dict[str, float]:
    """The largest difference between CLIP-as-service and LAION, which ran CLIP_benchmark both."""
    widest: dict[str, float] = {}
    for figures in every_published().values():
        by = {(f.dataset, f.metric, f.source): f.value for f in figures}
        for (dataset, metric, source), value in by.items():
            other = by.get((dataset, metric, LAION))
            if source == CLIP_AS_SERVICE and other is not None:
                widest[dataset] = max(widest.get(dataset, 0.0), abs(value - other))
    return widest
