"""Shards of vectors: each is there whole, with a record of it, or not at all.

A shard's files are written one after the other, each under a temporary name, fsynced and renamed;
the last is its record, `shard-000000.json`. What has no record is not there yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    write_text,
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


def record_in(out: Path, number: int, span: range, content: bool = False) -> Record | None:
    """The record of a shard that is whole: its files have their sizes, with `content` their sha256.

    None where it is not.
    """
    path = out / f"{stem(number)}.json"
    if regular_bytes(path) is None:
        return None
    try:
        record = from_json(Record, read_json(path), str(path))
        if (record.first, record.items) != (span.start, len(span)):
            return None
        for name, file in record.files.items():
            if not name.startswith(stem(number)) or "/" in name:
                return None
            if regular_bytes(out / name) != file.size_bytes:
                return None
            if content and sha256_file(out / name) != file.sha256:
                return None
    except ArtifactError:
        return None
    return record


def write_shard(
    out: Path,
    number: int,
    plan: Plan,
    span: range,
    ids: Sequence[str],
    vectors: np.ndarray,
    corrupt: Sequence[tuple[str, str]],
    clipped: int,
) -> Record:
    """Write a shard, its record last; `corrupt` are ids and reasons.

    Raises:
        StorageError: the disk is full or cannot be written; the shard is not there then.
    """
    # It may be made again: until its record is new, it is none.
    with translated(out):
        (out / f"{stem(number)}.json").unlink(missing_ok=True)
    names = []
    for suffix, write in FORMATS[plan.format].files.items():
        names.append(f"{stem(number)}{suffix}")
        with replacing(out / names[-1]) as temporary:
            write(temporary, ids, vectors)
    listed = f"{stem(number)}{CORRUPT}"
    if corrupt:
        lines = (json.dumps({"id": i, "reason": r}, ensure_ascii=False) for i, r in corrupt)
        write_text(out / listed, "".join(f"{line}\n" for line in lines))
        names.append(listed)
    else:
        with translated(out):
            (out / listed).unlink(missing_ok=True)
    files = {
        name: File((out / name).stat().st_size, sha256_file(out / name)) for name in sorted(names)
    }
    record = Record(span.start, len(span), len(ids), len(corrupt), clipped, files)
    write_json(out / f"{stem(number)}.json", record)
    return record


def corrupt_in(out: Path, number: int) -> Iterator[tuple[str, str]]:
    """The ids and reasons of a shard's corrupt items; none where it has no list."""
    path = out / f"{stem(number)}{CORRUPT}"
    if regular_bytes(path) is None:
        return
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            found = json.loads(line)
            yield found["id"], found["reason"]
