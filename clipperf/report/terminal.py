"""Tables for a terminal of some width."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from clipperf.report.table import Table, splits, worst
from clipperf.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")

TEXT_WIDTH = 120
GAP = 2
PROSE_WIDTH = 30

STYLES = {"bad": "red", "warn": "yellow"}


def rich_table(table: Table, width: int = TEXT_WIDTH) -> RenderableType:
    """A table for a terminal `width` columns wide, then its findings and caveats.

    A table that is too wide is printed in parts, because a number cut short is a wrong number.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for each in by_model(table):
        pieces = split_columns(each, width)
        for number, columns in enumerate(pieces, start=1):
            of = f" ({number} of {len(pieces)})" if len(pieces) > 1 else ""
            title = Text(printable(each.title) + of, style="bold")
            parts += [title, _grid(each, columns, width), Text("")]
    parts += bullets("+", table.findings, "green")
    parts += bullets("!", table.caveats, "yellow")
    # Tables are printed one after another: lines of prose need the space that tables have.
    parts += [Text("")] if table.findings or table.caveats else []
    return Group(*parts)


def bullets(mark: str, lines: Iterable[str], style: str = "") -> list[RenderableType]:
    """Lines of prose, each behind a mark; a path that is longer than a line goes on in the next."""
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

    found: list[RenderableType] = []
    for line in lines:
        grid = Grid.grid(padding=(0, 1))
        prose = Text(printable(line), overflow="fold")  # which a grid would cut short
        grid.add_row(Text(mark, style=style), prose)
        found.append(Padding(grid, (0, 0, 0, 1)))
    return found


def by_model(table: Table) -> list[Table]:
    """One table a model where models have several rows each: their names are long."""
    at = splits(table)
    if at is None:
        return [table]
    return [
        dataclasses.replace(
            table,
            title=f"{table.title} · {model.text}",
            columns=_cut(table.columns, at),
            rows=tuple(_cut(row, at) for row in table.rows if row[at] == model),
        )
        for model in dict.fromkeys(row[at] for row in table.rows)
    ]


def _cut(values: tuple[T, ...], at: int) -> tuple[T, ...]:
    return values[:at] + values[at + 1 :]


def split_columns(table: Table, width: int) -> list[list[int]]:
    """Column numbers of each part of a table printed `width` wide; key columns lead every part."""
    numbers = range(len(table.columns))
    keys = [i for i in numbers if table.columns[i].key]
    others = [i for i in numbers if i not in keys]
    room = width - sum(_width(table, i) + GAP for i in keys)
    parts: list[list[int]] = [[]]
    used = 0
    for i in others:
        needed = _width(table, i) + GAP
        if parts[-1] and used + needed > room:
            parts.append([])
            used = 0
        parts[-1].append(i)
        used += needed
    return [sorted([*keys, *part]) for part in parts]


def _grid(table: Table, columns: list[int], width: int) -> RenderableType:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold"
    )
    spare = width - sum(_width(table, i) + GAP for i in columns)
    for i in columns:
        right = table.columns[i].numeric
        # Widths are set, not left to rich: it would cut numbers to keep a header on one line.
        extra = 0 if right else max(0, min(spare, _longest(table, i) - _width(table, i)))
        spare -= extra
        grid.add_column(
            Text(printable(table.columns[i].name)),
            justify="right" if right else "left",
            width=_width(table, i) + extra,
            overflow="fold",
        )
    for row in table.rows:
        style = STYLES.get(worst(row) or "plain", "")
        grid.add_row(*(Text(printable(row[i].text)) for i in columns), style=style)
    return grid


def _width(table: Table, i: int) -> int:
    """The least width of a column: numbers whole, words of prose at PROSE_WIDTH at most."""
    column = table.columns[i]
    header = max((len(word) for word in column.name.split()), default=1)
    longest = _longest(table, i)
    return max(header, longest if column.numeric else min(longest, PROSE_WIDTH))


def _longest(table: Table, i: int) -> int:
    return max((len(printable(row[i].text)) for row in table.rows), default=1)
