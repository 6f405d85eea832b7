"""What is embedded: inputs with ids, and how a table's column or a file says which they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.embed.names import on_disk
from clipperf.errors import UsageError
from clipperf.inputs.decode import ImageInput
from clipperf.nouns.variant import Side
from clipperf.text import printable, quoted, shown

IMAGE_COLUMNS = ("image", "file_name", "filename", "filepath", "path", "url", "image_url", "jpg")
TEXT_COLUMNS = ("text", "caption", "title", "txt")
ID_COLUMN = "id"

MOST_TEXT_CHARACTERS = 1 << 20
"""The longest text that is read; towers read the first few hundred characters of it."""


@dataclass(frozen=True)
class Url:
    """An image that has to be fetched."""

    address: str


class Later:
    """Bytes of an image that are read when its batch is prepared; `decode` takes it for a file."""

    def __init__(self, name: str, read: Callable[[], bytes]) -> None:
        self.name = name
        self._read: Callable[[], bytes] | None = read

    def read(self, size: int = -1) -> bytes:
        """All bytes at once, then none."""
        del size
        read, self._read = self._read, None
        return b"" if read is None else read()


Given = ImageInput | Later | Url | str


@dataclass(frozen=True)
class Item:
    """One input; without `given` the `problem` says why it cannot be embedded."""

    id: str
    given: Given | None
    problem: str = ""


@dataclass(frozen=True)
class Wanted:
    """Of which tower the inputs are, and the columns that were asked for; None: the usual ones."""

    side: Side = "image"
    column: str | None = None
    id_column: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read: of inputs, and of ids where there is one."""

    input: str
    id: str | None


def columns_of(names: Iterable[str], wanted: Wanted, where: str) -> Columns:
    """Which columns of a table are read; its usual names count in any case.

    Raises:
        UsageError: a column is missing or there twice; the message lists those that are there.
    """
    there = list(names)
    twice = next((name for name in there if there.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{where}: two columns are called {quoted(twice)}: rename one")
    lower = {name.lower(): name for name in reversed(there)}
    few = ", ".join(map(quoted, there[:20]))
    for option, name in (("--column", wanted.column), ("--id-column", wanted.id_column)):
        if name is not None and name not in there:
            raise UsageError(f"{where} has no column {quoted(name)} ({option}); there are {few}")
    usual = IMAGE_COLUMNS if wanted.side == "image" else TEXT_COLUMNS
    found = wanted.column or next((lower[name] for name in usual if name in lower), None)
    if found is None:
        raise UsageError(
            f"{where} has no column {', '.join(usual)}; there are {few}: say with --column which "
            f"holds the {wanted.side}s"
        )
    return Columns(found, wanted.id_column or lower.get(ID_COLUMN))


def id_of(value: Any, where: str) -> str:
    """An id from a table; raises UsageError where it is none."""
    said = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if value is None or not said:
        raise UsageError(f"{where} has no id: fill its column, or name another with --id-column")
    return readable(said)


def readable(text: str) -> str:
    """A text that UTF-8 has bytes for; others, such as odd names of files, with their escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return printable(text)
    return text


def input_of(value: Any, side: Side, root: Path) -> Given | str:
    """What a table's value stands for: a text, the bytes of an image, a path below `root`, a URL.

    Raises:
        UsageError: it is none; the message says what it is.
    """
    if side == "text":
        return text_of(value)
    if isinstance(value, dict):  # as Hugging Face's datasets hold images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str) or not value.strip():
        raise UsageError("no image" if value is None or value == "" else f"{quoted(value)}")
    name = value.strip()
    if name.lower().startswith(("http://", "https://")):
        return Url(name)
    if "\0" in name:
        raise UsageError(f"{shown(name)} is no path")
    return root / on_disk(name)


def text_of(value: Any) -> str:
    """A text that can be embedded; raises UsageError where it is none."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise UsageError(f"no UTF-8: {exc}") from exc
    if not isinstance(value, str):
        raise UsageError("no text" if value is None else f"{quoted(value)} is no text")
    if len(value) > MOST_TEXT_CHARACTERS:
        raise UsageError(f"a text of {len(value)} characters, {MOST_TEXT_CHARACTERS} are read")
    if not value.strip():
        raise UsageError("an empty text")
    return readable(value.strip())


def item(id_: str, value: Any, side: Side, root: Path) -> Item:
    """The input that a value of a table is, or why it is none."""
    try:
        return Item(id_, input_of(value, side, root))
    except UsageError as exc:
        return Item(id_, None, str(exc))
