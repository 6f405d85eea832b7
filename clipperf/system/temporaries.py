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
import tempfile
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PREFIX = ".tmp-"
SCRATCH = "clipperf-"
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
    return re.match(rf"{_WRITER}-", name) is not None


def is_aside(name: str) -> bool:
    """Whether a name is that of an old folder while a new one takes its place."""
    return name.startswith(f"{PREFIX}old-")


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
def made(path: Path, *, folder: bool = False, private: bool = False) -> Iterator[Path]:
    """A fresh file or folder beside a path while the block runs; what dead writers left goes first.

    The kernel's lock of it is held meanwhile, which tells it from theirs. A `private` folder is
    the user's alone from the start.

    Raises:
        OSError: it cannot be made.
    """
    temporary, descriptor = _made(path, folder, 0o700 if private else 0o777)
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


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A folder of the user's alone among the machine's temporary files; see `made`."""
    place = Path(tempfile.gettempdir()) / f"{SCRATCH}{name}"
    with made(place, folder=True, private=True) as folder:
        yield folder


def sweep_scratch() -> None:
    """Remove all scratch folders of processes that were killed."""
    for leftover in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-{SCRATCH}*"):
        if is_one(leftover.name):
            _sweep_one(leftover)


def _made(path: Path, folder: bool, mode: int) -> tuple[Path, int | None]:
    """A fresh file, or folder of a mode, and the descriptor that holds its lock."""
    while True:
        number = secrets.token_hex(4)
        temporary = path.with_name(f"{PREFIX}{os.getpid()}-{number}-{label(path)}")
        if folder:
            temporary.mkdir(mode)
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
    for leftover in of(path):
        if leftover == aside(path):  # a folder's content, which waits to be put back
            continue
        _sweep_one(leftover)


def _sweep_one(leftover: Path) -> None:
    with contextlib.suppress(OSError), without_writer(leftover) as dead:
        if dead:
            remove(leftover)


def remove(leftover: Path) -> None:
    """Remove a file or a folder."""
    if leftover.is_dir() and not leftover.is_symlink():
        remove_tree(leftover)
    else:
        leftover.unlink()


@contextlib.contextmanager
def without_writer(path: Path) -> Iterator[bool]:
    """Whether nobody holds the lock of a file or folder, which is held while the block runs.

    False, too, where that cannot be told, for the file system has no locks.

    Raises:
        OSError: it cannot be opened, or is gone.
    """
    if sys.platform == "win32":
        yield False
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        try:
            dead = _lock(descriptor)
        except BlockingIOError:
            dead = False
        yield dead
    finally:
        os.close(descriptor)


def put_away(path: Path) -> Path:
    """Give a file or folder a temporary name, so that nobody takes what is left of it for whole.

    Nobody holds its lock, so that whoever finds it removes it, too.

    Raises:
        OSError: it cannot be renamed.
    """
    number = secrets.token_hex(4)
    gone = path.with_name(f"{PREFIX}{os.getpid()}-{number}-{label(path)}")
    os.rename(path, gone)
    return gone
