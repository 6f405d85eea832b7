"""What a command has in the shared place: a folder below its name there, which goes with it.

Beside the folder lies the command's mark: on which kernel and with which mounts it runs, written
again as long as it lives. Where a command was killed, the next one removes what it has left: with
the same kernel and mounts by the lock of the mark, which ends with a process, else once the mark is
old. It does so when it begins, and once more when it ends, for what had still been on its way.
Names that no command has are somebody else's, and stay.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from clipperf.errors import ClipperfError
from clipperf.system.cluster.machines import kernel
from clipperf.system.cluster.shared import TASKS, Shared
from clipperf.system.files import LOCK_MODE, translated

if sys.platform != "win32":
    import fcntl

MARK = ".mark"
RUN = re.compile(r"[0-9a-f]{16}")
"""The name of a command in the shared place."""
SIGN_S = 60.0
"""How often a command gives a sign of life."""
DEAD = timedelta(hours=1)
"""How old the last sign of one is that is taken for dead, where no lock can tell."""


@contextlib.contextmanager
def owned(url: str) -> Iterator[Shared]:
    """The shared place at `url`, with a folder in it that goes with the block.

    Where the block fails, tasks that are being ended may still write: the mark stays for the next
    command, which removes it with what they wrote.

    Raises:
        ClipperfError: as `Shared`, or it cannot be written.
    """
    shared = Shared(url, secrets.token_hex(8))
    with _marked(shared):
        remove_dead(shared)
        try:
            yield shared
        finally:
            with contextlib.suppress(ClipperfError):
                shared.remove(f"{TASKS}/{shared.run}")
        remove_dead(shared, marks=True)
    with contextlib.suppress(ClipperfError):  # now that no sign of life can follow
        shared.remove(_mark(shared.run))


def remove_dead(shared: Shared, marks: bool = False) -> None:
    """Remove what commands have left that live no longer; with `marks` no more will come of them.

    Without, their marks stay, and whatever their last processes still write is known by them.
    """
    names: set[str] = set()
    with contextlib.suppress(ClipperfError):
        names |= set(shared.names(TASKS))
    runs = filter(RUN.fullmatch, {name.removesuffix(MARK) for name in names})
    for run in sorted(set(runs) - {shared.run}):
        is_marked = f"{run}{MARK}" in names
        # What was removed meanwhile, or cannot be, is the next command's.
        with contextlib.suppress(ClipperfError, OSError):
            if _is_dead(shared, run) if is_marked else _is_old(shared, f"{TASKS}/{run}"):
                shared.remove(f"{TASKS}/{run}")
                if marks and is_marked:
                    shared.remove(_mark(run))


def _mark(run: str) -> str:
    return f"{TASKS}/{run}{MARK}"


@contextlib.contextmanager
def _marked(shared: Shared) -> Iterator[None]:
    """With the mark of a run in the shared place, and signs of life."""
    path = shared.path(_mark(shared.run))
    held = None if path is None else _held(path)
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(SIGN_S):
            with contextlib.suppress(ClipperfError, OSError):
                _sign(shared, path)

    signs = threading.Thread(target=live, daemon=True)
    try:
        _sign(shared, path)
        signs.start()
        yield
    finally:
        ended.set()
        if signs.is_alive():
            signs.join(SIGN_S)
        if held is not None:
            os.close(held)


def _held(path: Path) -> int:
    """A new mark in a folder: what holds its lock, where there are any.

    Raises:
        StorageError: it cannot be written.
    """
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, LOCK_MODE)
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, _here())
    return descriptor


def _here() -> bytes:
    """Equal for processes that see each other's locks: containers may mount a folder each."""
    try:
        mounts = str(Path("/proc/self/ns/mnt").readlink())
    except OSError:
        mounts = ""
    return f"{kernel()} {mounts}".encode()


def _sign(shared: Shared, path: Path | None) -> None:
    """Give a sign of life; a file keeps its lock."""
    if path is None:
        shared.put(_mark(shared.run), _here())
    else:
        os.utime(path)


def _is_dead(shared: Shared, run: str) -> bool:
    """Whether a command with a mark lives no longer."""
    path = shared.path(_mark(run))
    if path is not None and shared.get(_mark(run)) == _here():
        is_held = _is_held(path)
        if is_held is not None:
            return not is_held
    return _is_old(shared, _mark(run))


def _is_held(path: Path) -> bool | None:
    """Whether a living process holds the lock of a file; None where that cannot be told."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDWR)  # NFS locks no file that is open to be read alone
    except PermissionError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _is_old(shared: Shared, name: str) -> bool:
    """Whether something was written long before this command's last sign of life."""
    return shared.modified(_mark(shared.run)) - shared.modified(name) > DEAD
