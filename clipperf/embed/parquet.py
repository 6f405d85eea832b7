"""Parquet files row by row: bytes, paths, URLs or texts in a column, without a table in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipperf.embed.items import Item, Wanted, columns_of, id_of, item, readable
from clipperf.embed.names import as_text, on_disk
from clipperf.errors import MissingDependencyError, UsageError
from clipperf.system import extras
from clipperf.text import shown

ROWS = 64
"""Rows that are in memory at once."""

BUFFER_BYTES = 1 << 20


def parquet_items(
    root: Path, names: Sequence[str], wanted: Wanted, start: int = 0, *, read: bool = True
) -> Iterator[Item]:
    """The inputs of Parquet files below `root`, in their order, from row `start` on.

    Ids are those of the id column, else the file's name, ":" and the number of the row; of a
    single file the number alone. Without `read` the inputs are left out.

    Raises:
        UsageError: a file is damaged, or lacks a column.
        MissingDependencyError: pyarrow is not installed.
    """
    for name in names:
        path = root / on_disk(name)
        with _opened(path) as file:
            columns = columns_of(_names(file, path), wanted, shown(path))
            groups, skipped = list[int](), 0
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                if start >= rows and not groups:
                    start, skipped = start - rows, skipped + rows
                else:
                    groups.append(number)
            own = [] if columns.id is None else [columns.id]
            names_read = list(dict.fromkeys(([columns.input] if read or not own else []) + own))
            prefix = f"{readable(name)}:" if len(names) > 1 else ""
            place = skipped
            for inputs, ids in _rows(file, path, groups, names_read, columns.input, columns.id):
                for value, id_ in zip(inputs, ids, strict=True):
                    if start:
                        start -= 1
                    else:
                        where = f"{shown(path)} row {place}"
                        named = id_of(id_, where) if own else f"{prefix}{place}"
                        yield item(named, value, wanted.side, path.parent)
                    place += 1


def parquet_rows(root: Path, names: Sequence[str], wanted: Wanted) -> tuple[int, bool]:
    """How many rows there are, and whether they have ids; raises as `parquet_items`."""
    rows, own = 0, False
    for name in names:
        path = root / on_disk(name)
        with _opened(path) as file:
            rows += file.metadata.num_rows
            own |= columns_of(_names(file, path), wanted, shown(path)).id is not None
    return rows, own


def _names(file: Any, path: Path) -> list[str]:
    """The names of the columns."""
    try:
        return list(file.schema_arrow.names)
    except UnicodeDecodeError as exc:
        raise UsageError(f"{shown(path)} is damaged: a column's name is no UTF-8") from exc


def _opened(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        said = f"Parquet needs pyarrow, which is not installed: {extras.install('embed')}"
        raise MissingDependencyError(said) from exc
    try:
        # Pages are read as they are needed: whole row groups may be larger than memory.
        return pyarrow.parquet.ParquetFile(
            as_text(os.fspath(path)), pre_buffer=False, buffer_size=BUFFER_BYTES
        )
    except UnicodeEncodeError as exc:
        raise UsageError(f"{shown(path)}: its name is no UTF-8: rename it") from exc
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as exc:
        raise UsageError(f"{shown(path)} is no readable Parquet file: {shown(exc)}") from exc


def _rows(
    file: Any, path: Path, groups: list[int], names: list[str], given: str, own: str | None
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Inputs and ids of some rows after the other; None where a column is not read."""
    import pyarrow

    if not groups:
        return
    batches = file.iter_batches(ROWS, row_groups=groups, columns=names, use_threads=False)
    try:
        for batch in batches:
            none: list[Any] = [None] * batch.num_rows
            held = {name: _values(batch.column(name)) for name in names}
            yield held.get(given, none), held.get(own or "", none)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as exc:
        raise UsageError(f"{shown(path)} is damaged: {shown(exc)}") from exc


def _values(column: Any) -> list[Any]:
    """The values of a column; as bytes where it says that they are texts and one is no UTF-8."""
    import pyarrow

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        kinds = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
        if column.type not in kinds:
            return [_value(each) for each in column]
        return [_text(each) for each in column.view(kinds[column.type]).to_pylist()]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None


def _text(data: bytes | None) -> str | bytes | None:
    """A text; what is no UTF-8 stays bytes, which are no text either."""
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return data
