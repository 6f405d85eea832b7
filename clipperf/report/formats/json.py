"""JSON: the whole document, figures in full precision under `records`, tables as they read.

`schemas/report-1.json` is its JSON Schema, and the number in its name that of `schema_version`.
"""

from __future__ import annotations

from typing import Any

from clipperf.report.charts import BarChart, BoxChart, Chart, LineChart
from clipperf.report.document import Document, Section, plain_json
from clipperf.report.format import Format
from clipperf.report.table import Table
from clipperf.text import json_text

SCHEMA_VERSION = 1
"""Raised when a field goes or changes its meaning; new ones do not raise it."""

KINDS: dict[type[Chart], str] = {BarChart: "bars", BoxChart: "boxes", LineChart: "lines"}


def render(document: Document) -> str:
    """The whole document as JSON, figures in full precision; what is not finite is null."""
    sections = [_section(section) for section in document.sections]
    fields = {"schema_version": SCHEMA_VERSION, **vars(document), "sections": sections}
    del fields["results"]  # which are files already
    return json_text(plain_json(fields)) + "\n"


def _section(section: Section) -> dict[str, Any]:
    return {
        "key": section.key,
        "title": section.title,
        "intro": section.intro,
        "reports": [_table(table) for table in section.tables],
        "charts": [{"kind": KINDS[type(chart)], **vars(chart)} for chart in section.charts],
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
