"""Words that several parts of a report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipperf.nouns.cell import CLOSED_LOOP, Cell
from clipperf.report.records import Row


def listed(words: Sequence[str]) -> str:
    """Words as prose: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def driven(cell: Cell) -> str:
    """ " in 2 streams, server"; nothing for what is nearly everywhere so, one in a closed loop."""
    streams = f" in {cell.streams} streams" if cell.streams > 1 else ""
    streams += f" in {cell.instances} instances" if cell.instances > 1 else ""
    return streams if cell.scenario == CLOSED_LOOP else f"{streams}, {cell.scenario}"


def row_name(row: Row, labels: Mapping[str, str]) -> str:
    """Which cell a row is about, and where it was measured if `labels` has several places."""
    named = f"{row.cell.label}{driven(row.cell)}"
    return f"{labels[row.env_id]} {named}" if len(labels) > 1 else named


def apart(cell: Cell, others: Sequence[Cell], *names: str) -> str:
    """ ", 8 tokens, cuda": what tells a cell from `others` of its tower, of the fields `names`."""
    of_tower = [c for c in others if (c.model_id, c.side) == (cell.model_id, cell.side)]
    said = {
        "tokens": f"{cell.tokens} tokens",
        "device": cell.device,
        "threads": f"{cell.threads} threads",
        "streams": f"{cell.streams} streams",
        "instances": f"{cell.instances} instances",
    }
    differ = [name for name in names if len({getattr(c, name) for c in of_tower}) > 1]
    return "".join(f", {said[name]}" for name in differ)
