"""WebDataset shards: the samples of tars, whose files are read in place when their turn comes."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

from clipperf.embed.items import Given, Item, Later, Wanted, readable, text_of
from clipperf.embed.names import on_disk
from clipperf.errors import UsageError
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import ImageSource, is_hidden, parse_object
from clipperf.inputs.tars import Member, members

TEXT_SUFFIXES = (".txt", ".json")
MOST_TEXT_BYTES = 1 << 22


def tar_items(
    root: Path, names: Sequence[str], wanted: Wanted, start: int = 0, *, read: bool = True
) -> Iterator[Item]:
    """The samples of tars below `root`, in their order, from the one with number `start` on.

    A sample is the files of a tar that follow each other and have one name before the first dot
    of its last part; its id is the tar's name, "/" and that name. Samples without anything that
    could be wanted are left out where they have neither an image nor a text. Without `read` texts
    are not read.

    Raises:
        UsageError: a tar is cut, damaged, packed, or holds what none should.
    """
    samples = (sample for name in names for sample in _samples(root, name, wanted))
    for id_, files in islice(samples, start, None):
        try:
            yield Item(id_, _given(files, wanted, read))
        except UsageError as exc:
            yield Item(id_, None, str(exc))


def _suffix(wanted: Wanted) -> str | None:
    """How the names of the images end that were asked for, as `_split` has it."""
    if wanted.column is None or wanted.side == "text":
        return None
    return f".{wanted.column.removeprefix('.')}".lower()


def _samples(root: Path, name: str, wanted: Wanted) -> Iterator[tuple[str, dict[str, ImageSource]]]:
    path = root / on_disk(name)
    found = ((*_split(member.name), member) for member in members(path))
    plain = (each for each in found if not is_hidden(each[2].name))
    useful = image_suffixes() | {".jpeg", *TEXT_SUFFIXES}
    own = _suffix(wanted)
    useful |= set() if own is None else {own}
    for key, same in groupby(plain, key=lambda each: each[0]):
        files = {suffix: _source(path, member) for _, suffix, member in same}
        if files.keys() & useful:
            yield readable(f"{name}/{key}"), files


def _source(path: Path, member: Member) -> ImageSource:
    return ImageSource(member.name, path, member.name, (member.start, member.size))


def _split(name: str) -> tuple[str, str]:
    """The key of a sample and the suffix of one of its files: "a/b.c.jpg" is ("a/b", ".c.jpg")."""
    folder, base = posixpath.split(name)
    stem, dot, suffix = base.partition(".")
    return posixpath.join(folder, stem), (dot + suffix).lower()


def _given(files: dict[str, ImageSource], wanted: Wanted, read: bool) -> Given:
    if wanted.side == "image":
        own = image_suffixes() | {".jpeg"}
        suffix = _suffix(wanted) or next((s for s in sorted(files) if s in own), "")
        if suffix not in files:
            raise UsageError(f"the sample has no image{suffix and f' {suffix}'}")
        source = files[suffix]
        return Later(source.name, source.read)
    if not read:
        return ""
    field = wanted.column or "caption"
    if ".txt" in files and wanted.column is None:
        return text_of(files[".txt"].read(MOST_TEXT_BYTES))
    if ".json" not in files:
        raise UsageError("the sample has no text")
    said = files[".json"].read(MOST_TEXT_BYTES).decode("utf-8", "replace")
    found = parse_object(said, "its JSON")
    return text_of(found.get(field, None if wanted.column else found.get("text")))
