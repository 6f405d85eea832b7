"""Markdown with pipe tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipperf.report.document import Document, describe
from clipperf.report.format import Format
from clipperf.report.table import Table
from clipperf.text import printable


def render(document: Document) -> str:
    """The document as Markdown; charts are left to HTML."""
    lines = [f"# {escaped(document.title)}", ""]
    lines += _list("Findings", document.findings)
    for section in document.sections:
        if not section.tables:
            continue
        lines += [f"## {escaped(section.title)}", "", escaped(section.intro), ""]
        for table in section.tables:
            lines += [f"**{escaped(table.title)}**", "", *pipe_table(table), ""]
            lines += [f"- {escaped(line)}" for line in (*table.findings, *table.caveats)]
            lines.append("")
    lines += _list("Caveats", document.caveats)
    lines += _list(
        "Environments", [f"{label}: {describe(env)}" for label, env in document.environment]
    )
    lines += _list(
        "Provenance",
        [f"{s.environment}, {s.created_utc}, {s.path}: {s.command}" for s in document.provenance],
    )
    return "\n".join(lines).rstrip("\n") + "\n"


def pipe_table(table: Table) -> list[str]:
    """The lines of a table, numbers to the right."""
    ends = ["---:" if column.numeric else "---" for column in table.columns]
    return [
        f"| {' | '.join(map(escaped, table.names))} |",
        f"| {' | '.join(ends)} |",
        *(f"| {' | '.join(map(escaped, row))} |" for row in table.texts),
    ]


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {escaped(line)}" for line in lines), ""] if lines else []


def escaped(text: str) -> str:
    """Text that stays text in Markdown: no HTML, no cell borders, no emphasis."""
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]])", r"\\\1", plain)


FORMAT = Format("md", render)
