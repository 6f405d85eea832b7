"""How a Report is put together: columns that fold away where they say nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from clipperf.nouns.report import Report
from clipperf.report.records import Row
from clipperf.units import NOT_MEASURED

R = TypeVar("R")

RANDOM_MARK = "(random weights)"


@dataclass(frozen=True)
class Column(Generic[R]):
    """One column: its header and how a record becomes its text.

    `fold` "constant" moves a value shared by all rows into the title (`phrase` says how: "{}
    threads"); "empty" drops the column where nothing was measured.
    """

    name: str
    text: Callable[[R], str]
    numeric: bool = True
    fold: Literal["never", "constant", "empty"] = "never"
    phrase: str = "{}"


def tabulate(
    title: str,
    columns: Sequence[Column[R]],
    records: Sequence[R],
    findings: Sequence[str] = (),
    caveats: Sequence[str] = (),
) -> Report:
    """Build a Report from records, folding columns as they ask."""
    texts = [[column.text(record) for record in records] for column in columns]
    kept: list[int] = []
    parts = [title]
    for i, column in enumerate(columns):
        values = {t for t in texts[i] if t != NOT_MEASURED}
        if column.fold == "constant" and records and len(values) <= 1:
            parts += [column.phrase.format(v) for v in values]
        elif column.fold == "empty" and not any(values):
            continue
        else:
            kept.append(i)
    return Report(
        title=" · ".join(parts),
        columns=tuple(columns[i].name for i in kept),
        rows=tuple(tuple(texts[i][j] for i in kept) for j in range(len(records))),
        findings=tuple(findings),
        caveats=tuple(dict.fromkeys(caveats)),
        numeric=tuple(columns[i].numeric for i in kept),
    )


def model_name(model_id: str, random_weights: bool) -> str:
    """The model's id, marked where its weights are noise."""
    return f"{model_id} {RANDOM_MARK}" if random_weights else model_id


def environment_column(labels: dict[str, str], env_id: Callable[[R], str]) -> list[Column[R]]:
    """The column that keeps environments apart; none where there is only one."""
    if len(labels) < 2:
        return []
    return [Column("Env", lambda r: labels[env_id(r)], numeric=False, fold="constant")]


def cell_columns(labels: dict[str, str], *, threads: bool = False) -> list[Column[Row]]:
    """The columns that say which cell a row is about, one row a cell."""
    counted: Column[Row] = Column(
        "Threads", lambda r: str(r.cell.threads), fold="constant", phrase="{} threads"
    )
    return [
        Column(
            "Model",
            lambda r: model_name(r.cell.model_id, r.random_weights),
            numeric=False,
            fold="constant",
        ),
        *environment_column(labels, lambda r: r.env_id),
        Column("Device", lambda r: r.cell.device, numeric=False, fold="constant"),
        *([counted] if threads else []),
        Column("Tower", lambda r: r.cell.side, numeric=False),
        Column(
            "Tokens",
            lambda r: NOT_MEASURED if r.cell.tokens is None else str(r.cell.tokens),
            fold="constant",
            phrase="{} tokens",
        ),
        Column("Batch", lambda r: str(r.cell.batch)),
        Column("Runtime", lambda r: r.setup, numeric=False),
    ]
