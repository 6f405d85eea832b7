"""Words that several parts of a report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipperf.nouns.cell import Cell
from clipperf.report.records import Row


def listed(words: Sequence[str]) -> str:
    """Words as prose: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def in_streams(cell: Cell) -> str:
    """ " in 2 streams"; nothing for one, which is how nearly everything is measured."""
    return f" in {cell.streams} streams" if cell.streams > 1 else ""


def row_name(row: Row, labels: Mapping[str, str]) -> str:
    """Which cell a row is about, and where it was measured if `labels` has several places."""
    named = f"{row.cell.label}{in_streams(row.cell)}"
    return f"{labels[row.env_id]} {named}" if len(labels) > 1 else named
