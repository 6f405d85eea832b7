"""What users put into the folders that clipperf writes: it moves on into the new ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from clipperf.errors import UsageError
from clipperf.system import temporaries


def carry_over(old: Path, new: Path, ours: Callable[[str], bool]) -> None:
    """Bring everything in a folder that is not `ours` into the one that will take its place.

    `ours` is asked for files and links, by their paths in the folder. Files are linked where the
    file system can, else copied; links, empty folders and permissions stay as they are. Nothing
    is changed in `old`.

    Raises:
        UsageError: `new` holds something of that name, or another file system is mounted there.
        OSError: something cannot be read or written.
    """
    if old.is_dir():
        _carry(old, old, new, ours)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or where the file system cannot, a copy of it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # no hard links on this file system, or not between the two
        shutil.copy2(source, target, follow_symlinks=False)


def _carry(root: Path, folder: Path, new: Path, ours: Callable[[str], bool]) -> None:
    entries = sorted(folder.iterdir())
    if not entries and folder != root:
        _make_like(root, folder, new)
    for entry in entries:
        name = entry.relative_to(root).as_posix()
        if temporaries.is_one(entry.name):
            continue
        if entry.is_dir() and not entry.is_symlink():
            if os.path.ismount(entry):
                raise UsageError(
                    f"another file system is mounted at {entry}, which clipperf would have to "
                    f"move: unmount it, or choose another folder"
                )
            _carry(root, entry, new, ours)
        elif not ours(name):
            _make_like(root, folder, new)
            if os.path.lexists(new / name):
                raise _in_the_way(entry)
            link_or_copy(entry, new / name)


def _make_like(root: Path, folder: Path, new: Path) -> None:
    """Make the folders above and with `folder` in `new`, with its permissions."""
    for part in reversed([folder, *folder.parents]):
        if part.is_relative_to(root) and part != root:
            made = new / part.relative_to(root)
            if os.path.lexists(made) and not made.is_dir():
                raise _in_the_way(part)
            if not made.exists():
                made.mkdir()
                shutil.copymode(part, made)


def _in_the_way(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not clipperf's, which now writes something of that name: move it away, or "
        f"choose another folder"
    )
