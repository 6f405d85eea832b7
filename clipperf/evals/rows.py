"""Rows of tables: CSV, JSON lines, and the texts that Flickr's captions come in."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.layout import few
from clipperf.inputs.sources import ImageSource, parse_object, read_text
from clipperf.text import shown

Row = tuple[int, dict[Any, Any]]
"""The number of a line, and what is in it by column."""

IMAGE_AND_CAPTION = "image,caption"


def read_rows(source: ImageSource, columns: Mapping[str, str] | None = None) -> Iterator[Row]:
    """The rows of a table, by what its name and its first line say that it is.

    `columns` says which column is the image, the caption or the label where it has another name.

    Raises:
        UsageError: a row cannot be read; the message names the line.
    """
    text = read_text(source)
    kind = posixpath.splitext(source.name)[1].lower()
    first = text.split("\n", 1)[0].strip().lower()
    if kind == ".jsonl":
        found = _objects(source, text)
    elif kind == ".csv" and "|" not in first:
        found = _csv(source, text, dict(columns or {}))
    elif "|" in first:
        found = _piped(source, text)
    elif "\t" in first:
        found = _tokens(source, text)
    elif first.replace(" ", "") == IMAGE_AND_CAPTION:
        found = _comma(source, text)
    else:
        raise UsageError(
            f"{source}: neither the header {IMAGE_AND_CAPTION} nor lines of "
            "image.jpg#0, a tab and a caption"
        )
    renamed = {column: name for name, column in (columns or {}).items()}
    met: set[Any] = set()
    for line, row in found:
        met |= row.keys()
        named = {key: value for key, value in row.items() if key not in renamed}
        named |= {renamed[key]: value for key, value in row.items() if key in renamed}
        if "label" in (columns or {}):  # by which figures may be wanted as well
            named[columns["label"]] = row.get(columns["label"])  # type: ignore[index]
        yield line, named
    missing = renamed.keys() - met
    if missing and met:
        raise UsageError(
            f"{source} has no column {few(missing)}; there are {few(map(str, met), 20)}"
        )


def _csv(source: ImageSource, text: str, columns: Mapping[str, str]) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        reader.fieldnames = [(name or "").strip() for name in reader.fieldnames or ()]
        header = set(reader.fieldnames)
        twice = {name for name in header if name and reader.fieldnames.count(name) > 1}
        if twice:
            raise UsageError(f"{source}: the header names {few(twice)} twice: rename or remove one")
        if posixpath.basename(source.name).startswith("captions"):
            missing = {columns.get(n, n) for n in ("image", "caption")} - header
            if missing:
                raise UsageError(f"{source}: the header lacks {few(missing)}; need image,caption")
        for row in reader:
            if None in row:
                raise UsageError(
                    f"{source} line {reader.line_num}: more fields than columns; "
                    "put captions with commas in double quotes"
                )
            yield reader.line_num, row
    except csv.Error as exc:
        raise UsageError(f"{source} line {reader.line_num}: {shown(exc)}") from exc


def _objects(source: ImageSource, text: str) -> Iterator[Row]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, parse_object(content, f"{source} line {line}")


def _lines(text: str, after: int) -> Iterator[tuple[int, str]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if line > after and content.strip():
            yield line, content.strip()


def _comma(source: ImageSource, text: str) -> Iterator[Row]:
    """What follows the image's name is the caption, commas and all; quotes around it are none."""
    for line, content in _lines(text, after=1):
        image, comma, caption = content.partition(",")
        if not comma:
            raise UsageError(f"{source} line {line}: no comma between image and caption")
        if len(caption) > 1 and caption[0] == caption[-1] == '"':
            caption = caption[1:-1].replace('""', '"')
        yield line, {"image": image, "caption": caption}


def _tokens(source: ImageSource, text: str) -> Iterator[Row]:
    for line, content in _lines(text, after=0):
        image, tab, caption = content.partition("\t")
        if not tab:
            raise UsageError(f"{source} line {line}: no tab between image and caption")
        yield line, {"image": image.rpartition("#")[0] or image, "caption": caption}


def _piped(source: ImageSource, text: str) -> Iterator[Row]:
    """Flickr30k's: image_name| comment_number| comment."""
    for line, content in _lines(text, after=1):
        parts = content.split("|", 2)
        yield line, {"image": parts[0].strip(), "caption": parts[-1].strip()}
