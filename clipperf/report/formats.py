"""The formats of a report: functions from a Document to text; `FORMATS` lists them.

Adding one means a function and a row in `FORMATS`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from clipperf.nouns.report import Report
from clipperf.report.document import Document, clean, describe
from clipperf.report.page import render_html
from clipperf.serialize import to_json

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")

TEXT_WIDTH = 120
GAP = 2
PROSE_WIDTH = 30

KEY_COLUMNS = frozenset(
    {"Model", "Env", "Tower", "Dataset", "Metric", "Batch", "Runtime", "Rank", "Note"}
)
"""Columns that say what a row is; a table too wide to print repeats them in every part."""


# --- terminal ------------------------------------------------------------------------------


def rich_report(report: Report, width: int = TEXT_WIDTH) -> RenderableType:
    """A report for a terminal `width` columns wide: its tables, then its findings and caveats.

    A table that is too wide is printed in parts, because a number cut short is a wrong number.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for table in by_model(report):
        pieces = split_columns(table, width)
        for number, columns in enumerate(pieces, start=1):
            of = f" ({number} of {len(pieces)})" if len(pieces) > 1 else ""
            title = Text(clean(table.title) + of, style="bold")
            parts += [title, _rich_table(table, columns, width), Text("")]
    parts += [_bullet("+", line, "green") for line in report.findings]
    parts += [_bullet("!", line, "yellow") for line in report.caveats]
    # Reports are printed one after another: lines of prose need the space that tables have.
    parts += [Text("")] if report.findings or report.caveats else []
    return Group(*parts)


def rich_document(document: Document, width: int = TEXT_WIDTH) -> RenderableType:
    """A whole document for a terminal; charts are left to HTML."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(clean(document.title), style="bold"), Text("")]
    parts += [*(_bullet("+", line, "green") for line in document.findings), Text("")]
    for section in document.sections:
        for report in section.reports:
            parts.append(rich_report(report, width))
    parts += [Text("Caveats", style="bold")] if document.caveats else []
    parts += [_bullet("!", line, "yellow") for line in document.caveats]
    parts += [Text(""), Text("Measured on", style="bold")]
    parts += [_bullet("-", f"{label}: {describe(env)}", "") for label, env in document.environment]
    parts += [
        _bullet("-", f"{s.environment} {s.created_utc} {s.path}: {s.command}", "")
        for s in document.provenance
    ]
    return Group(*parts)


def by_model(report: Report) -> list[Report]:
    """One table a model where models have several rows each: their names are long."""
    if "Model" not in report.columns:
        return [report]
    at = report.columns.index("Model")
    models = list(dict.fromkeys(row[at] for row in report.rows))
    if len(models) == len(report.rows):
        return [report]
    return [
        dataclasses.replace(
            report,
            title=f"{report.title} · {model}",
            columns=_cut(report.columns, at),
            numeric=_cut(report.numeric, at),
            rows=tuple(_cut(row, at) for row in report.rows if row[at] == model),
        )
        for model in models
    ]


def _cut(values: tuple[T, ...], at: int) -> tuple[T, ...]:
    return values[:at] + values[at + 1 :]


def _bullet(mark: str, line: str, style: str) -> RenderableType:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(mark, style=style), Text(clean(line)))
    return Padding(grid, (0, 0, 0, 1))


def _rich_table(report: Report, columns: list[int], width: int) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold"
    )
    spare = width - sum(_width(report, i) + GAP for i in columns)
    for i in columns:
        right = _numeric(report, i)
        # Widths are set, not left to rich: it would cut numbers to keep a header on one line.
        extra = 0 if right else max(0, min(spare, _longest(report, i) - _width(report, i)))
        spare -= extra
        table.add_column(
            Text(clean(report.columns[i])),
            justify="right" if right else "left",
            width=_width(report, i) + extra,
            overflow="fold",
        )
    for row in report.rows:
        style = _row_style(" ".join(row[i] for i in range(len(row)) if not _numeric(report, i)))
        table.add_row(*(Text(clean(row[i])) for i in columns), style=style)
    return table


def _row_style(words: str) -> str:
    if re.search(r"\b(failed|lost|RANDOM WEIGHTS)\b", words):
        return "red"
    return "yellow" if re.search(r"\b(unsupported|unstable|unresolved)\b", words) else ""


def split_columns(report: Report, width: int) -> list[list[int]]:
    """Column numbers of each part of a table printed `width` wide; key columns lead every part."""
    numbers = range(len(report.columns))
    keys = [i for i in numbers if report.columns[i].title() in KEY_COLUMNS]
    others = [i for i in numbers if i not in keys]
    room = width - sum(_width(report, i) + GAP for i in keys)
    parts: list[list[int]] = [[]]
    used = 0
    for i in others:
        needed = _width(report, i) + GAP
        if parts[-1] and used + needed > room:
            parts.append([])
            used = 0
        parts[-1].append(i)
        used += needed
    return [sorted([*keys, *part]) for part in parts]


def _width(report: Report, i: int) -> int:
    """The least width of a column: numbers whole, words of prose at PROSE_WIDTH at most."""
    header = max((len(word) for word in report.columns[i].split()), default=1)
    longest = _longest(report, i)
    return max(header, longest if _numeric(report, i) else min(longest, PROSE_WIDTH))


def _longest(report: Report, i: int) -> int:
    return max((len(clean(row[i])) for row in report.rows), default=1)


def _numeric(report: Report, i: int) -> bool:
    return bool(report.numeric) and report.numeric[i]


def render_text(document: Document) -> str:
    """Plain text, TEXT_WIDTH columns wide, without colour."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=TEXT_WIDTH, color_system=None, force_terminal=False)
    console.print(rich_document(document, TEXT_WIDTH))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


# --- Markdown ------------------------------------------------------------------------------


def render_markdown(document: Document) -> str:
    """Markdown with pipe tables."""
    lines = [f"# {_md(document.title)}", ""]
    lines += _md_list("Findings", document.findings)
    for section in document.sections:
        if not section.reports:
            continue
        lines += [f"## {_md(section.title)}", "", _md(section.intro), ""]
        for report in section.reports:
            lines += [f"**{_md(report.title)}**", "", *_md_table(report), ""]
            lines += [f"- {_md(line)}" for line in (*report.findings, *report.caveats)]
            lines.append("")
    lines += _md_list("Caveats", document.caveats)
    lines += _md_list(
        "Environments", [f"{label}: {describe(env)}" for label, env in document.environment]
    )
    lines += _md_list(
        "Provenance",
        [f"{s.environment}, {s.created_utc}, {s.path}: {s.command}" for s in document.provenance],
    )
    return "\n".join(lines).rstrip("\n") + "\n"


def _md_table(report: Report) -> list[str]:
    ends = ["---:" if _numeric(report, i) else "---" for i in range(len(report.columns))]
    return [
        f"| {' | '.join(map(_md, report.columns))} |",
        f"| {' | '.join(ends)} |",
        *(f"| {' | '.join(map(_md, row))} |" for row in report.rows),
    ]


def _md_list(title: str, lines: Any) -> list[str]:
    return [f"## {title}", "", *(f"- {_md(line)}" for line in lines), ""] if lines else []


def _md(text: str) -> str:
    """Text that stays text in Markdown: no HTML, no cell borders, no emphasis."""
    escaped = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]])", r"\\\1", escaped)


# --- for machines --------------------------------------------------------------------------


def render_csv(document: Document) -> str:
    """Every figure in SI units, one line a row; `record` says whether it is a cost or a score."""
    columns = list(dict.fromkeys(key for record in document.records for key in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for record in document.records:
        writer.writerow({k: _csv_value(v) for k, v in record.items()})
    return buffer.getvalue()


def _csv_value(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if without_nan(value) is None else value


def render_json(document: Document) -> str:
    """The whole document as JSON, figures in full precision; what is not finite is null."""
    data = without_nan(to_json(document))
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def without_nan(value: Any) -> Any:
    """Plain JSON values with None for every NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return value


FORMATS: dict[str, Callable[[Document], str]] = {
    "text": render_text,
    "md": render_markdown,
    "csv": render_csv,
    "json": render_json,
    "html": render_html,
}
