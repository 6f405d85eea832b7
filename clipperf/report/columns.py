"""How a Table is put together: columns that fold away where they say nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from clipperf.nouns.cell import CLOSED_LOOP, Cell
from clipperf.report.table import RANDOM_WEIGHTS, WORDS, Heading, Table, Unit, Value

R = TypeVar("R")

Fold = Literal["never", "constant", "empty"]

KEY: dict[str, Any] = {"key": True, "group": True}
"""What columns are that say which row it is, and whose next value begins a group."""


@dataclass(frozen=True)
class Column(Generic[R]):
    """One column: its header, and what of a record it shows: a plain value of `unit`, or a Value.

    `fold` "constant" moves a value shared by all rows into the title (`phrase` says how: "{}
    threads"); "empty" drops the column where nothing was measured. See `Heading` for the rest.
    """

    name: str
    of: Callable[[R], Value | float | str | None]
    unit: Unit = "count"
    fold: Fold = "never"
    phrase: str = "{}"
    key: bool = False
    group: bool = False
    split: bool = False

    @property
    def heading(self) -> Heading:
        """Its header in the table."""
        return Heading(self.name, self.unit not in WORDS, self.key, self.group, self.split)

    def value(self, record: R) -> Value:
        """What it shows of a record."""
        found = self.of(record)
        return found if isinstance(found, Value) else Value(found, self.unit)


def tabulate(
    title: str,
    columns: Sequence[Column[R]],
    records: Sequence[R],
    findings: Sequence[str] = (),
    caveats: Sequence[str] = (),
) -> Table:
    """Build a Table from records, folding columns as they ask."""
    kept: list[tuple[Heading, list[Value]]] = []
    parts = [title]
    for column in columns:
        values = [column.value(record) for record in records]
        known = {value for value in values if not value.missing}
        if column.fold == "constant" and records and len(known) <= 1:
            parts += [column.phrase.format(value.text) for value in known]
        elif column.fold != "empty" or any(value.value != "" for value in known):
            kept.append((column.heading, values))
    return Table(
        title=" · ".join(parts),
        columns=tuple(heading for heading, _ in kept),
        rows=tuple(tuple(values[i] for _, values in kept) for i in range(len(records))),
        findings=tuple(findings),
        caveats=tuple(dict.fromkeys(caveats)),
    )


def model_name(model_id: str, random_weights: bool) -> Value:
    """The model's id, marked where its weights are noise."""
    return Value(model_id, mark=RANDOM_WEIGHTS if random_weights else None)


# --- which cell a row is about -------------------------------------------------------------


def _threads(cell: Cell) -> int | None:
    """Those that a cell runs on; of a server nobody knows."""
    return None if cell.is_remote else cell.threads


CELL_COLUMNS: dict[str, Column[Cell]] = {
    column.name: column
    for column in (
        Column[Cell]("Device", lambda c: c.device, "words", "constant", group=True),
        Column[Cell]("Threads", _threads, fold="constant", phrase="{} threads"),
        Column[Cell]("Streams", lambda c: c.streams, fold="constant", phrase="{} streams"),
        Column[Cell](
            "Instances", lambda c: c.instances, fold="constant", phrase="{} instances", group=True
        ),
        Column[Cell]("Scenario", lambda c: c.scenario, "words", "constant"),
        Column[Cell]("Tower", lambda c: c.side, "words", **KEY),
        Column[Cell]("Tokens", lambda c: c.tokens, fold="constant", phrase="{} tokens"),
        Column[Cell]("Batch", lambda c: c.batch, **KEY),
        Column[Cell]("Runtime", lambda c: c.setup, "words", key=True),
    )
}


CELL = tuple(CELL_COLUMNS)

USUAL: dict[str, object] = {"Streams": 1, "Instances": 1, "Scenario": CLOSED_LOOP}


def _itself(record: Any) -> Any:
    return record


def who_columns(
    labels: dict[str, str], about: Callable[[Any], Any] = _itself, fold: Fold = "constant"
) -> list[Column[Any]]:
    """The columns that keep models (see `fold`) and, where there are several, machines apart.

    `about` gives what has a record's `cell`, `env_id` and `random_weights`, where these are not
    the record's own.
    """

    def model(record: Any) -> Value:
        return model_name(about(record).cell.model_id, about(record).random_weights)

    columns: list[Column[Any]] = [Column("Model", model, "words", fold, **KEY, split=True)]
    if len(labels) > 1:
        env = Column[Any]("Env", lambda r: labels[about(r).env_id], "words", "constant", **KEY)
        columns.append(env)
    return columns


def cell_columns(
    names: Sequence[str],
    records: Sequence[Any],
    about: Callable[[Any], Any] = _itself,
    optional: Sequence[str] = (),
) -> list[Column[Any]]:
    """Columns of CELL_COLUMNS that say which cell a row is about; `about` as in `who_columns`.

    What is `optional` is left out where it does not differ, and what is as nearly always in all
    rows (see `USUAL`).
    """

    def shown(name: str) -> bool:
        values = {CELL_COLUMNS[name].of(about(record).cell) for record in records} - {None}
        if name in USUAL:
            return bool(values - {USUAL[name]})
        return name not in optional or len(values) > 1

    def of(column: Column[Cell]) -> Column[Any]:
        whole: Column[Any] = column
        return dataclasses.replace(whole, of=lambda record: column.of(about(record).cell))

    return [of(CELL_COLUMNS[name]) for name in names if shown(name)]
