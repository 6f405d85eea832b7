"""What a path stands for: a home folder, what is behind a link, a device or an open descriptor."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from clipperf.errors import StorageError, UsageError
from clipperf.text import shown

Kind = Literal["nothing", "file", "folder", "other"]


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path as a user wrote it, in full: "~" is a home folder, and it starts at the root.

    Raises:
        UsageError: it is empty, whose home folder is meant is not known here, or the working
            directory is gone.
    """
    if not os.fspath(path):
        raise UsageError("a path is empty: name a file or folder")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as exc:
        raise UsageError(
            f"{os.fspath(path)}: that home folder is not known here; write the path in full"
        ) from exc
    except FileNotFoundError as exc:
        raise UsageError(
            f"{os.fspath(path)}: the working directory was removed; change to another one, or "
            f"write the path in full"
        ) from exc


def existing(name: str) -> Path | None:
    """What a user's text names, in full, where something is there; None for all other texts."""
    # A name that no file can have, too long or with a zero byte, is one of nothing; so are all
    # names in a working directory that is gone.
    there = bool(name.strip()) and os.path.lexists(os.path.expanduser(name))  # noqa: PTH111
    return expanded(name) if there else None


def kind_of(path: Path) -> Kind:
    """What lies at a path, links followed.

    pathlib's own questions raise for some paths of which that cannot be told, and deny others, by
    the version of Python.

    Raises:
        UsageError: it cannot be told, as where a folder above may not be searched.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
        said = getattr(exc, "strerror", None) or exc
        why = _UNKNOWN.get(getattr(exc, "errno", None) or 0, "name another path")
        raise UsageError(f"{shown(path)} cannot be looked at: {said}; {why}") from exc
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def entries_of(folder: Path) -> list[Path]:
    """What a folder holds, by name; nothing where there is no folder.

    Raises:
        UsageError: it cannot be listed, or whether there is one cannot be told.
    """
    if kind_of(folder) != "folder":
        return []
    try:
        return sorted(folder.iterdir())
    except OSError as exc:
        raise UsageError(f"{shown(folder)} cannot be listed: {exc.strerror or exc}") from exc


_UNKNOWN = {
    errno.EACCES: "this user may not search a folder above it, so name another path",
    errno.ELOOP: "its links lead in a circle, so remove them",
    errno.ENAMETOOLONG: "choose a shorter one",
}


def real(path: Path) -> Path:
    """The file or folder behind a path's links; it need not be there yet.

    Raises:
        StorageError: the links lead in a circle.
    """
    found = Path(os.path.realpath(path))
    with contextlib.suppress(OSError):  # whoever writes it says what is wrong
        if found.is_symlink():
            raise StorageError(f"cannot write {path}: its links lead in a circle; remove them")
    return found


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, a socket or an open descriptor such as /dev/stdout.

    What is written goes into it; a file in its place would be another thing.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISDIR(mode) and (not stat.S_ISREG(mode) or _descriptor(path) is not None)


@contextlib.contextmanager
def into_stream(path: Path) -> Iterator[Path]:
    """Yield a name to write to; its content goes into the stream when the block ends well.

    Raises:
        StorageError: a disk without a file system, or a pipe that nobody reads.
        OSError: it cannot be written.
    """
    if stat.S_ISBLK(path.stat().st_mode):
        raise StorageError(f"cannot write {path}: it is a disk; name a file")
    with tempfile.TemporaryDirectory(prefix="clipperf-stream-") as folder:
        temporary = Path(folder) / f"content{path.suffix}"
        yield temporary
        with open(temporary, "rb") as content, open(_opened(path), "wb") as stream:
            shutil.copyfileobj(content, stream)


def _opened(path: Path) -> int:
    """A descriptor to write into a stream; this process's own are shared, with their position."""
    descriptor = _descriptor(path)
    if descriptor is not None:
        if descriptor == 1:
            sys.stdout.flush()
        return os.dup(descriptor)
    if sys.platform == "win32":
        return os.open(path, os.O_WRONLY)
    try:  # a pipe that nobody reads must not stop the command for good
        opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise StorageError(
                f"cannot write {path}: nobody reads it; start its reader first, or name a file"
            ) from exc
        raise
    os.set_blocking(opened, True)
    return opened


def _descriptor(path: Path) -> int | None:
    """The number of this process's descriptor that a path is, as /dev/stdout is 1."""
    own = os.path.realpath("/proc/self/fd")
    for _ in range(40):  # as many links as Linux follows
        if path.name.isdecimal() and os.path.realpath(path.parent) == own:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None
