"""CSV: every figure in SI units, one line a row; `record` says what a row is."""

from __future__ import annotations

import csv
import io
from typing import Any

from clipperf.report.document import Document, plain_json
from clipperf.report.format import Format
from clipperf.text import printable

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What spreadsheets take a text for that begins so; an apostrophe keeps it a text. Numbers are none
of these texts and stay as they are."""


def render(document: Document) -> str:
    """Every figure in SI units, one line a row; `record` says whether it is a cost or a score."""
    columns = list(dict.fromkeys(key for record in document.records for key in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for record in document.records:
        writer.writerow({k: _value(v) for k, v in record.items()})
    return buffer.getvalue()


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        shown = printable(value)
        return f"'{shown}" if value.startswith(FORMULA) else shown
    return "" if plain_json(value) is None else value


FORMAT = Format("csv", render)
