"""Names under which files and folders are written before they take their place.

They are ".tmp-", the writer's process id, a random number and the name that is written, so that
the next writer of that name can sweep what a dead one left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PREFIX = ".tmp-"
LABEL_BYTES = 200
_WRITER = rf"{re.escape(PREFIX)}(old|\d+-[0-9a-f]{{8}})"


def aside(folder: Path) -> Path:
    """Where an old folder lies while a new one takes its place in two steps."""
    return folder.with_name(f"{PREFIX}old-{label(folder)}")


def label(path: Path) -> str:
    """A path's name as part of another; a long one's digest, as names have an end."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= LABEL_BYTES else hashlib.sha256(name).hexdigest()[:16]


def of(path: Path) -> Iterator[Path]:
    """What lies beside a path under its temporary names."""
    # Matched in full: another path's name may end like this one's.
    writer = f"{_WRITER}-{re.escape(label(path))}"
    return (p for p in path.parent.glob(f"{PREFIX}*") if re.fullmatch(writer, p.name))


def is_one(name: str) -> bool:
    """Whether a name is one of clipperf's temporary ones, and no user's that begins alike."""
    return re.match(_WRITER, name) is not None


def remove_tree(folder: Path) -> None:
    """Remove a folder, as far as that is possible; users' folders in it may be read-only."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        return
    with contextlib.suppress(OSError):
        for above, folders, _ in os.walk(folder):
            for name in folders:
                inner = Path(above, name)
                if not inner.is_symlink():
                    inner.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def made(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A fresh file or folder beside a path while the block runs; what dead writers left goes first.

    The kernel's lock of it is held meanwhile, which tells it from theirs.

    Raises:
        OSError: it cannot be made.
    """
    temporary, descriptor = _made(path, folder)
    try:
        _sweep(path)
        yield temporary
    finally:
        if folder:
            remove_tree(temporary)
        else:
            temporary.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _made(path: Path, folder: bool) -> tuple[Path, int | None]:
    """A fresh file or folder, and the descriptor that holds its lock."""
    while True:
        number = secrets.token_hex(4)
        temporary = path.with_name(f"{PREFIX}{os.getpid()}-{number}-{label(path)}")
        if folder:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        if sys.platform == "win32":  # folders cannot be opened there, nor files in use be removed
            return temporary, None
        # Until it is locked, another writer may take it for a dead one's.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                _lock(descriptor)
                temporary.stat()
            except (FileNotFoundError, BlockingIOError):
                os.close(descriptor)
                raise
            return temporary, descriptor


def _lock(descriptor: int) -> bool:
    """Whether the lock was taken; False where the file system has none. Held: BlockingIOError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _sweep(path: Path) -> None:
    """Remove what killed writers of a file or folder left beside it."""
    if sys.platform == "win32":
        return
    for leftover in of(path):
        if leftover == aside(path):  # a folder's content, which waits to be put back
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if not _lock(descriptor):
                    continue
                if leftover.is_dir():
                    remove_tree(leftover)
                else:
                    leftover.unlink()
            finally:
                os.close(descriptor)
