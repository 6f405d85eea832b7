"""JSON: the whole document, figures in full precision under `records`, tables as they read."""

from __future__ import annotations

from typing import Any

from clipperf.report.document import Document, Section, plain_json
from clipperf.report.format import Format
from clipperf.report.table import Table
from clipperf.text import json_text


def render(document: Document) -> str:
    """The whole document as JSON, figures in full precision; what is not finite is null."""
    fields = {**vars(document), "sections": [_section(s) for s in document.sections]}
    del fields["results"]  # which are files already
    return json_text(plain_json(fields)) + "\n"


def _section(section: Section) -> dict[str, Any]:
    return {
        "key": section.key,
        "title": section.title,
        "intro": section.intro,
        "reports": [_table(table) for table in section.tables],
        "charts": section.charts,
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "columns": table.names,
        "rows": table.texts,
        "findings": table.findings,
        "caveats": table.caveats,
        "numeric": [column.numeric for column in table.columns],
    }


FORMAT = Format("json", render)
