"""Published WebDatasets from where they lie: shard by shard, each whole or not at all.

A fetch that was interrupted goes on at its shard. Every runtime reads every image, so shards are
kept in the store rather than streamed once for each of them.
"""

from __future__ import annotations

import contextlib
import http.client
import posixpath
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.layout import MissingSplitError
from clipperf.system.files import digest_of, locked, replacing, safe_name
from clipperf.text import shown

TIMEOUT_S = 30.0
MOST_SHARDS = 100_000
MOST_TEXT_BYTES = 1 << 24
CHUNK_BYTES = 1 << 20

TEXTS = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")
"""What lies beside the parts of a dataset; none of them has to be there."""


NUMBER = "nshards.txt"


class _UnreachableError(UsageError):
    """Nobody answers at an address."""


class _AbsentError(UsageError):
    """There is nothing at an address."""


def base_of(url: str) -> str:
    """The address of a dataset's files, for one as people copy it from the hub's pages."""
    return re.sub(r"/tree/([^/]+)/?$", r"/resolve/\1", url.rstrip("/"))


def folder_name(url: str) -> str:
    """What the folder of a fetched address is called."""
    return f"{safe_name(posixpath.basename(url.rstrip('/')))}-{digest_of(base_of(url))[:8]}"


def fetch(url: str, split: str, folder: Path, on_stage: Callable[[str], None]) -> Path:
    """One part of a WebDataset into a folder, which it returns; what is there is not fetched again.

    Where all of a part is there the network is not asked.

    Raises:
        MissingSplitError: others are there, and this one is not published, or cannot be asked for.
        UsageError: it cannot be fetched; the message says what, and why.
        StorageError: the disk is full, or cannot be written.
    """
    base, told = base_of(url), folder / split / NUMBER
    if told.is_file():
        return folder
    with locked(folder):
        number = _number(f"{base}/{split}/{NUMBER}", folder)
        if not number.isdecimal() or not 0 < int(number) <= MOST_SHARDS:
            raise UsageError(f"{shown(base)}/{split}/{NUMBER} says {shown(number[:40])} shards")
        shards = [f"{split}/{i}.tar" for i in range(int(number))]
        for i, name in enumerate(shards):
            if not (folder / name).is_file():
                on_stage(f"fetching {shown(posixpath.basename(base))} shard {i + 1}/{len(shards)}")
                _large(f"{base}/{name}", folder / name)
        for name in TEXTS:
            if not (folder / name).is_file() and (text := _small(f"{base}/{name}", needed=False)):
                _write(folder / name, text)
        # The last: where it lies, all of its shards do.
        _write(told, f"{number}\n")
    return folder


def _number(url: str, folder: Path) -> str:
    """How many shards a part has, as it is published."""
    try:
        return _small(url, needed=True).strip()
    except (_UnreachableError, _AbsentError) as exc:
        if any(folder.glob(f"*/{NUMBER}")):
            raise MissingSplitError(str(exc)) from exc
        raise


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Any]:
    if not url.startswith(("https://", "http://")):
        raise UsageError(f"{shown(url)}: only https and http addresses are fetched")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            yield answer
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as exc:
        said = getattr(exc, "reason", None) or exc
        raise _UnreachableError(f"{shown(url)} cannot be fetched: {shown(said)}") from exc


def _small(url: str, needed: bool) -> str:
    """The text at an address; "" where there is none and it is not needed."""
    try:
        with _opened(url) as answer:
            data: bytes = answer.read(MOST_TEXT_BYTES + 1)
    except urllib.error.HTTPError as exc:
        if exc.code == 404 and not needed:
            return ""
        kind = _AbsentError if exc.code == 404 else UsageError
        raise kind(f"{shown(url)} cannot be fetched: {exc.code} {exc.reason}") from exc
    if len(data) > MOST_TEXT_BYTES:
        raise UsageError(f"{shown(url)} is too long for what it should be")
    return data.decode("utf-8", "replace")


def _large(url: str, path: Path) -> None:
    """A file at an address, written whole or not at all."""
    try:
        with _opened(url) as answer, replacing(path) as temporary:
            expected = answer.headers.get("Content-Length")
            with open(temporary, "wb") as file:
                while chunk := _read(url, answer):
                    file.write(chunk)
            size = temporary.stat().st_size
            if expected is not None and size != int(expected):
                raise UsageError(f"{shown(url)} broke off after {size} of {expected} bytes")
    except urllib.error.HTTPError as exc:
        raise UsageError(f"{shown(url)} cannot be fetched: {exc.code} {exc.reason}") from exc


def _read(url: str, answer: Any) -> bytes:
    try:
        data: bytes = answer.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as exc:
        raise UsageError(f"{shown(url)} broke off: {shown(exc)}") from exc
    return data
