"""Files of unknown origin: regular ones only, and no more of them than can be expected.

One that is no regular file (a named pipe, a device, a link to one) may block for good or never
end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from clipperf import units
from clipperf.errors import ArtifactError
from clipperf.text import shown

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read its bytes; links are followed.

    Raises:
        OSError, ValueError: as `open` does, or it is something else; that is not opened, for that
            alone can block.
    """
    _check_regular(path, Path(path).stat())

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with contextlib.ExitStack() as closing:
        file = closing.enter_context(open(path, "rb", opener=opener))
        _check_regular(path, os.fstat(file.fileno()))  # it may have been exchanged meanwhile
        closing.pop_all()
    return file


def _check_regular(path: str | Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def regular_bytes(path: str | Path) -> int | None:
    """The size of a regular file; None where there is none, or none that this user can reach."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def read_regular(path: str | Path, limit_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError, ValueError: as `open_regular` does; it is larger than the limit, and then not read,
            or grows meanwhile.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        check_bytes(path, size, limit_bytes)
        data = file.read(size + 1)
    if len(data) > size:
        raise OSError(errno.EBUSY, "it grows while it is read: copy it first", str(path))
    return data


def check_bytes(path: str | Path, size_bytes: int, limit_bytes: int) -> None:
    """Raise OSError for a file that is larger than its kind may be."""
    if size_bytes > limit_bytes:
        said = f"it has {units.size(size_bytes)}, the limit is {units.size(limit_bytes)}"
        raise OSError(errno.EFBIG, f"{said}: make it smaller, or split it", str(path))


def read_small(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file that is not expected to be large.

    Raises:
        ArtifactError: the file is missing, unreadable, no regular file, or too large.
    """
    try:
        return read_regular(path, most_bytes)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{shown(path)} does not exist") from exc
    except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
        said = getattr(exc, "strerror", None) or exc
        raise ArtifactError(f"{shown(path)} cannot be read: {said}") from exc


def stamps(files: Iterable[Path]) -> list[tuple[int, int, int]]:
    """What tells files from those that took their place; those that are not there are left out."""
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            known = file.stat()
            found.append((known.st_ino, known.st_size, known.st_mtime_ns))
    return found
