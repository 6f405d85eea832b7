"""Tables row by row, however long they are: CSV, TSV, JSON lines, and texts one a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from clipperf.embed.items import Columns, Item, Wanted, columns_of, id_of, item
from clipperf.errors import UsageError
from clipperf.system.reading import open_regular
from clipperf.text import quoted, shown

SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
MOST_LINE_CHARACTERS = 1 << 24
"""The longest line of texts or of JSON."""

Row = dict[str, Any] | str
"""The fields of a row by column, or what is wrong with it."""


def columns_in(path: Path, wanted: Wanted) -> Columns:
    """The columns of a table that are read: those of its header, or of its first object.

    Raises:
        UsageError: it cannot be read, is no UTF-8, or lacks a column; the message says where.
    """
    if path.suffix.lower() == ".txt":
        for option, value in (("--column", wanted.column), ("--id-column", wanted.id_column)):
            if value is not None:
                raise UsageError(f"{option} is for tables: {shown(path)} holds a text a line")
    first = next((row for row in _rows(path, wanted) if isinstance(row, dict)), None)
    if first is None or path.suffix.lower() == ".txt":
        return Columns("text", None)
    return columns_of(first, wanted, shown(path))


def table_items(path: Path, wanted: Wanted, columns: Columns, start: int = 0) -> Iterator[Item]:
    """The inputs of a table from row `start` on, counted from 0 behind the header.

    Ids are those of the id column, else the numbers of the rows.

    Raises: as `columns_in`.
    """
    for number, row in islice(enumerate(_rows(path, wanted)), start, None):
        if isinstance(row, str):
            yield Item(f"row {number}", None, row)
            continue
        where = f"{shown(path)} row {number}"
        id_ = str(number) if columns.id is None else id_of(row.get(columns.id), where)
        yield item(id_, row.get(columns.input), wanted.side, path.parent)


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    try:
        with open_regular(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as exc:
        raise UsageError(f"{shown(path)} is not UTF-8: {exc.reason}: save it as UTF-8") from exc
    except OSError as exc:
        raise UsageError(f"cannot read {shown(path)}: {exc.strerror or exc}") from exc


def _rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".txt" and wanted.side == "image":
        raise UsageError(f"{shown(path)} holds texts: give --tower text, or a CSV of images")
    with _text(path) as text:
        if suffix == ".txt":
            yield from ({"text": line} for line in _lines(text, path))
        elif suffix == ".jsonl":
            yield from _objects(text, path)
        else:
            yield from _csv(text, path, "\t" if suffix == ".tsv" else ",", wanted)


def _csv(text: io.TextIOWrapper, path: Path, delimiter: str, wanted: Wanted) -> Iterator[Row]:
    # Of the process, and 128 KiB until it is set: a caption or an image's text may be longer.
    csv.field_size_limit(max(csv.field_size_limit(), MOST_LINE_CHARACTERS))
    reader = csv.reader(text, delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise UsageError(f"{shown(path)} is empty: its first line names its columns")
        columns_of(header, wanted, shown(path))
        for fields in reader:
            if not fields:
                continue
            if len(fields) == len(header):
                yield dict(zip(header, fields, strict=True))
            else:
                yield (
                    f"line {reader.line_num}: {len(fields)} fields, the header has {len(header)}; "
                    f"put fields with commas in double quotes"
                )
    except csv.Error as exc:
        raise UsageError(f"{shown(path)} line {reader.line_num}: {shown(exc)}") from exc


def _lines(text: io.TextIOWrapper, path: Path) -> Iterator[str]:
    number = 0
    while line := text.readline(MOST_LINE_CHARACTERS):
        number += 1
        if len(line) == MOST_LINE_CHARACTERS:
            raise UsageError(f"{shown(path)} line {number} is longer than {len(line)} characters")
        yield line


def _objects(text: io.TextIOWrapper, path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(text, path), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as exc:
            yield f"line {number} is no JSON: {shown(exc)}"
            continue
        yield found if isinstance(found, dict) else f"line {number}: {quoted(found)} is no object"
