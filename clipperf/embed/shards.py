"""Shards of vectors: each is there whole, with a record of it, or not at all.

A shard's files are written one after the other, each under a temporary name, fsynced and renamed;
the last is its record, `shard-000000.json`. What has no record is not there yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipperf.embed.formats import FORMATS
from clipperf.embed.manifest import Plan
from clipperf.errors import ArtifactError
from clipperf.serialize import from_json
from clipperf.system.files import (
    read_json,
    replacing,
    sha256_file,
    translated,
    write_json,
)
from clipperf.system.reading import regular_bytes

CORRUPT = ".corrupt.jsonl"


@dataclass(frozen=True)
class File:
    """A file of a shard, by its size and sha256."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What a shard holds: `items` from place `first` on, of which `rows` have a vector.

    `clipped` images hold values that are no bytes.
    """

    first: int
    items: int
    rows: int
    corrupt: int
    clipped: int
    files: dict[str, File]


def stem(number: int) -> str:
    """How the names of a shard's files begin."""
    return f"shard-{number:06d}"


def record_in(
    out: Path, number: int, plan: Plan, span: range, content: bool = False
) -> Record | None:
    """The record of a shard that is whole: its files have their sizes, with `content` their sha256.

    None where it is not, or where the record does not add up: it is damaged, too.
    """
    path = out / f"{stem(number)}.json"
    if regular_bytes(path) is None:
        return None
    try:
        record = from_json(Record, read_json(path), str(path))
        if (record.first, record.items) != (span.start, len(span)):
            return None
        if min(record.rows, record.corrupt) < 0 or record.rows + record.corrupt != record.items:
            return None
        endings = [*FORMATS[plan.format].files, *((CORRUPT,) if record.corrupt else ())]
        if record.files.keys() != {f"{stem(number)}{ending}" for ending in endings}:
            return None
        for name, file in record.files.items():
            if regular_bytes(out / name) != file.size_bytes:
                return None
            if content and sha256_file(out / name) != file.sha256:
                return None
    except ArtifactError:
        return None
    return record


@dataclass(frozen=True)
class Made:
    """What came of a shard's items: ids with vectors [ids, embed_dim], corrupt ones with reasons.

    `clipped` images hold values that are no bytes.
    """

    ids: list[str]
    vectors: np.ndarray
    corrupt: list[tuple[str, str]]
    clipped: int

    def with_those_of(self, out: Path, number: int, plan: Plan, order: Sequence[str]) -> Made:
        """This, with the vectors that the shard on the disk has of items that are corrupt now.

        `order` are the ids of all items. A shard that cannot be read has none.
        """
        try:
            ids, vectors = FORMATS[plan.format].read(out / stem(number))
        except (OSError, ValueError, KeyError, TypeError):
            return self
        bad = {id_ for id_, _ in self.corrupt}
        kept = {id_: place for place, id_ in enumerate(ids) if id_ in bad}
        if not kept or vectors.shape != (len(ids), self.vectors.shape[1]):
            return self
        own = {id_: place for place, id_ in enumerate(self.ids)}
        names = [id_ for id_ in order if id_ in own or id_ in kept]
        rows = [self.vectors[own[id_]] if id_ in own else vectors[kept[id_]] for id_ in names]
        corrupt = [each for each in self.corrupt if each[0] not in kept]
        return replace(self, ids=names, vectors=np.stack(rows), corrupt=corrupt)


def write_shard(out: Path, number: int, plan: Plan, span: range, made: Made) -> Record:
    """Write a shard, its record last.

    Raises:
        StorageError: the disk is full or cannot be written; what was there before is still there.
    """
    names = [f"{stem(number)}{suffix}" for suffix in FORMATS[plan.format].files]
    listed, record_name = f"{stem(number)}{CORRUPT}", f"{stem(number)}.json"
    with ExitStack() as written:
        # All of it finds room before anything takes its place.
        for name, write in zip(names, FORMATS[plan.format].files.values(), strict=True):
            temporary = written.enter_context(replacing(out / name))
            with translated(out / name):
                write(temporary, made.ids, made.vectors)
        if made.corrupt:
            names.append(listed)
            lines = (
                json.dumps({"id": i, "reason": r}, ensure_ascii=False) for i, r in made.corrupt
            )
            temporary = written.enter_context(replacing(out / listed))
            with translated(out / listed):
                temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8", newline="\n")
        # It may be made again: until its record is new, it is none.
        with translated(out):
            (out / record_name).unlink(missing_ok=True)
    with translated(out):
        if not made.corrupt:
            (out / listed).unlink(missing_ok=True)
        files = {n: File((out / n).stat().st_size, sha256_file(out / n)) for n in sorted(names)}
    counts = len(span), len(made.ids), len(made.corrupt), made.clipped
    record = Record(span.start, *counts, files)
    write_json(out / record_name, record)
    return record


def corrupt_in(out: Path, number: int) -> Iterator[tuple[str, str]]:
    """The ids and reasons of a shard's corrupt items; none where it has no list."""
    path = out / f"{stem(number)}{CORRUPT}"
    if regular_bytes(path) is None:
        return
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                found = json.loads(line)
                named = str(found["id"]), str(found["reason"])
            except (ValueError, KeyError, TypeError, RecursionError):
                named = "?", f"{path.name} is damaged: --verify makes the shard again"
            yield named
