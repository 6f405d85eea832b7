"""What users put into the folders that clipperf writes: it moves on into the new ones."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

from clipperf.errors import UsageError
from clipperf.system import temporaries
from clipperf.text import shown


def check(old: Path, ours: Callable[[str], bool], coming: Collection[str]) -> None:
    """Find out, before long work, whether `carry_over` will work once it is done.

    `coming` are files that the new folder will hold, by their paths in there.

    Raises:
        UsageError: as `carry_over`.
    """
    taken = {parent.as_posix() for name in coming for parent in PurePosixPath(name).parents}
    for entry, is_folder in _walked(old, ours):
        name = entry.relative_to(old).as_posix()
        above = {parent.as_posix() for parent in PurePosixPath(name).parents}
        if not above.union((name,)).isdisjoint(coming) or (name in taken and not is_folder):
            raise _in_the_way(entry)
        if not is_folder and not (_is_own(entry) or os.access(entry, os.R_OK)):
            raise _unreadable(entry, os.strerror(errno.EACCES))


def carry_over(old: Path, new: Path, ours: Callable[[str], bool]) -> None:
    """Bring everything in a folder that is not `ours` into the one that will take its place.

    `ours` is asked for files and links, by their paths in the folder. Files are linked where the
    file system can, else copied; links, empty folders and permissions stay as they are. Nothing
    is changed in `old`.

    Raises:
        UsageError: `new` holds something of that name, another file system is mounted there, or
            something may not be read.
        OSError: something cannot be written.
    """
    folders = []
    for entry, is_folder in _walked(old, ours):
        made = new / entry.relative_to(old)
        parents = [old / part for part in reversed(entry.relative_to(old).parents[:-1])]
        for part in [*parents, *([entry] if is_folder else [])]:
            there = new / part.relative_to(old)
            if os.path.lexists(there) and not there.is_dir():
                raise _in_the_way(part)
            if not os.path.lexists(there):
                there.mkdir()
                folders.append(part)
        if is_folder:
            continue
        if os.path.lexists(made):
            raise _in_the_way(entry)
        try:
            link_or_copy(entry, made)
        except PermissionError as exc:
            raise _unreadable(entry, exc.strerror) from exc
    for part in reversed(folders):  # once all is in there: some may not be written
        shutil.copymode(part, new / part.relative_to(old))


def _walked(root: Path, ours: Callable[[str], bool]) -> Iterator[tuple[Path, bool]]:
    """What is not `ours` below a folder, if there is one: files, links, and empty folders (True).

    Raises:
        UsageError: another file system is mounted in there, or a folder may not be read.
    """
    folders = [root] if root.is_dir() else []
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError as exc:
            raise _unreadable(folder, exc.strerror) from exc
        if not entries and folder != root:
            yield folder, True
        for entry in entries:
            if temporaries.is_one(entry.name):
                continue
            if entry.is_dir() and not entry.is_symlink():
                if os.path.ismount(entry):
                    raise UsageError(
                        f"another file system is mounted at {entry}, which clipperf would have to "
                        f"move: unmount it, or choose another folder"
                    )
                folders.append(entry)
            elif not ours(entry.relative_to(root).as_posix()):
                yield entry, False


def _is_own(path: Path) -> bool:
    """Whether this user may make another name of a file, or a copy of a link, unread."""
    if sys.platform == "win32" or path.is_symlink():
        return True
    return path.lstat().st_uid == os.geteuid()


def _unreadable(path: Path, why: str | None) -> UsageError:
    return UsageError(
        f"{path} is not clipperf's and cannot be kept ({why}): make it readable, move it away, or "
        f"choose another folder"
    )


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder.

    Raises:
        UsageError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError as exc:
        raise UsageError(f"{shown(folder)} cannot be listed: {exc.strerror}") from exc


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or where the file system cannot, a copy of it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # no hard links on this file system, or not between the two
        shutil.copy2(source, target, follow_symlinks=False)


def _in_the_way(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not clipperf's, which now writes something of that name: move it away, or "
        f"choose another folder"
    )
