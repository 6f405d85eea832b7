"""The files below a folder, in order, in bounded memory: sorted in pieces on the disk."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from clipperf.embed.names import as_text
from clipperf.errors import UsageError
from clipperf.inputs.sources import is_hidden
from clipperf.text import shown

SPILL = 200_000
"""Names that are sorted in memory."""


@dataclass(frozen=True)
class Found:
    """A file below a folder: its name relative to it, bytes and time of change.

    A link that leads nowhere has -1 bytes.
    """

    name: str
    size: int
    mtime_ns: int

    @property
    def line(self) -> str:
        """In one line, by which files are in order."""
        return json.dumps([self.name, self.size, self.mtime_ns])


def walk(root: Path) -> Iterator[Found]:
    """Every file below a folder in any order, hidden ones left out, links followed.

    Raises:
        UsageError: a folder cannot be listed.
    """
    folders = [("", root, frozenset[str]())]
    while folders:
        prefix, folder, above = folders.pop()
        real = os.path.realpath(folder)
        if real in above:  # a link back to a folder that is being walked
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = as_text(entry.name)
                    if is_hidden(name):
                        continue
                    if _is_folder(entry):
                        inner = f"{prefix}{name}/", Path(entry.path), above | {real}
                        folders.append(inner)
                    else:
                        yield Found(f"{prefix}{name}", *_stamp(Path(entry.path)))
        except OSError as exc:
            raise UsageError(f"cannot list {shown(folder)}: {exc.strerror or exc}") from exc


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link to itself, or one that cannot be followed, is a file that cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def stamped(path: Path) -> Found:
    """A single file by its own name."""
    return Found(as_text(path.name), *_stamp(path))


class Digest:
    """What tells a dataset's files from others: names, sizes and times of change, in order."""

    def __init__(self) -> None:
        self.files = self.size_bytes = 0
        self._sum = hashlib.sha256()

    def add(self, found: Found) -> None:
        """The next file."""
        self.files += 1
        self.size_bytes += max(0, found.size)
        self._sum.update(found.line.encode() + b"\n")

    @property
    def hex(self) -> str:
        """The digest so far."""
        return self._sum.hexdigest()


class Listing:
    """Names that are added in any order and read in theirs, from any place on.

    `folder` is a scratch folder, `digest` what they come to once they are sorted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: list[str] = []
        self._pieces: list[Path] = []
        self.count = 0
        self.digest = Digest()

    def add(self, found: Found) -> None:
        """One more file."""
        self._lines.append(found.line)
        self.count += 1
        if len(self._lines) >= SPILL:
            self._spill()

    def sort(self) -> None:
        """Bring what was added in order, once."""
        self._spill()
        with ExitStack() as opened, open(self._all, "w", encoding="ascii") as out:
            pieces = [opened.enter_context(open(p, encoding="ascii")) for p in self._pieces]
            for line in heapq.merge(*pieces):
                self.digest.add(Found(*json.loads(line)))
                out.write(line)
        for piece in self._pieces:
            piece.unlink()

    def names(self, start: int = 0) -> Iterator[str]:
        """The names in order, from the one with this number on."""
        with open(self._all, encoding="ascii") as lines:
            for line in islice(lines, start, None):
                yield json.loads(line)[0]

    @property
    def _all(self) -> Path:
        return self._folder / "names"

    def _spill(self) -> None:
        if self._lines or not self._pieces:
            piece = self._folder / f"piece-{len(self._pieces)}"
            piece.write_text("".join(f"{line}\n" for line in sorted(self._lines)), "ascii")
            self._pieces.append(piece)
            self._lines = []
