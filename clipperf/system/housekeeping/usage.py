"""What the store takes on its disk.

A file of several names (towers are linked from folder to folder where the file system can) is
counted once, with the first of them that is met. `apparent` are the bytes of its content, `disk`
the blocks that it takes, which holes and compression make fewer and a file's last block more.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipperf.system.housekeeping.contents import Entry

BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own blocks are (POSIX)."""


@dataclass(frozen=True)
class Size:
    """Bytes: of contents, on the disk, and of the latter what has names elsewhere, too.

    `newest_s` is the latest change of a content, in seconds since 1970.
    """

    apparent: int = 0
    disk: int = 0
    shared: int = 0
    files: int = 0
    newest_s: float = 0.0

    def __add__(self, other: Size) -> Size:
        return Size(
            self.apparent + other.apparent,
            self.disk + other.disk,
            self.shared + other.shared,
            self.files + other.files,
            max(self.newest_s, other.newest_s),
        )

    @property
    def freed(self) -> int:
        """What the disk gets back when all of it is removed."""
        return self.disk - self.shared


@dataclass(frozen=True)
class Used:
    """What one thing of the store takes."""

    entry: Entry
    size: Size


def used(entries: Iterable[Entry]) -> list[Used]:
    """The size of each, the largest first; what lies in two of them counts for the first."""
    entries = list(entries)
    leftovers = {str(entry.path) for entry in entries if entry.kind == "leftover"}
    stats = [_stats(entry.path, leftovers - {str(entry.path)}) for entry in entries]
    found = [Used(entry, size) for entry, size in zip(entries, _sizes(stats), strict=True)]
    return sorted(found, key=lambda each: (-each.size.disk, str(each.entry.path)))


def size_of(paths: Iterable[Path]) -> Size:
    """The size of files and folders together; `shared` has names outside of all of them."""
    total = Size()
    for size in _sizes([_stats(path, set()) for path in paths]):
        total += size
    return total


def _sizes(stats: list[list[os.stat_result]]) -> list[Size]:
    """The sizes of several things, of which each file counts for the first that has it."""
    names = Counter((found.st_dev, found.st_ino) for each in stats for found in each)
    counted: set[tuple[int, int]] = set()
    sizes = []
    for each in stats:
        total = Size()
        for found in each:
            key = (found.st_dev, found.st_ino)
            if key not in counted:
                counted.add(key)
                total += _one(found, names[key])
        sizes.append(total)
    return sizes


def _one(found: os.stat_result, names: int) -> Size:
    """The size of one file of which so many names were met."""
    blocks = getattr(found, "st_blocks", None)
    disk = found.st_size if blocks is None else blocks * BLOCK_BYTES
    folder = stat.S_ISDIR(found.st_mode)
    shared = 0 if folder or found.st_nlink <= names else disk
    if folder:
        return Size(0, disk, 0, 0, 0.0)
    return Size(found.st_size, disk, shared, 1, found.st_mtime)


def _stats(path: Path, skip: set[str]) -> list[os.stat_result]:
    """The status of a file, or of a folder and all in it; links are not followed.

    What goes away meanwhile, or may not be read, is left out.
    """
    found: list[os.stat_result] = []
    left = [str(path)]
    while left:
        name = left.pop()
        if name in skip:
            continue
        try:
            one = os.lstat(name)
            found.append(one)
            if stat.S_ISDIR(one.st_mode):
                with os.scandir(name) as inside:
                    left += [entry.path for entry in inside]
        except OSError:
            continue
    return found
