"""Artifact folders that are replaced while they are read.

A folder is replaced as a whole, by an exchange of names, and the old one is deleted at once. Who
reads by names may get a part of each. So what is opened is opened through a handle, which stays
the old folder's, or the folder is looked at before and after.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from clipperf.errors import ArtifactError, ClipperfError, EngineError
from clipperf.system.store import MANIFEST_NAME

T = TypeVar("T")

HANDLES = Path("/proc/self/fd")

TRIES_S = 20.0
"""How long something else is tried where a folder is replaced while it is opened."""

PAUSE_S = 0.02
"""The mean pause between two tries."""

Stamp = tuple[int, ...] | None


class Held:
    """A folder under names that stay its own while another one takes its place.

    `folder` is the handle's name, `path(name)` that of a file in it, which a file that was kept
    has even when it is deleted. Where a platform has no such names (they are Linux's), all are
    the usual ones, and it is not `steady`: whoever reads has to look whether it was replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.steady = HANDLES.is_dir()
        self._handles: dict[int, Path] = {}
        self._kept: dict[str, Path] = {}
        self.folder = self._opened(folder, getattr(os, "O_DIRECTORY", 0))

    def keep(self, names: Iterable[str]) -> None:
        """Open files, so that they can be read after their end; what is missing is left out."""
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                self._kept[name] = self._opened(self.folder / name, getattr(os, "O_NONBLOCK", 0))

    def path(self, name: str) -> Path:
        """What to open for a file of the folder."""
        return self._kept.get(name, self.folder / name)

    def usual(self, said: str) -> str:
        """A text with the usual names in it."""
        return re.sub(rf"{HANDLES}/(\d+)", lambda m: str(self._handles.get(int(m[1]), m[0])), said)

    def close(self) -> None:
        """Let everything go."""
        for handle in self._handles:
            os.close(handle)
        self._handles.clear()

    def _opened(self, path: Path, flags: int) -> Path:
        if not self.steady:
            return path
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
        self._handles[handle] = Path(self.usual(str(path)))
        return HANDLES / str(handle)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Held]:
    """Hold a folder; errors that are raised inside say its usual name.

    Raises:
        ArtifactError: there is no such folder.
    """
    try:
        handles = Held(folder)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{folder}: there is no such file or folder") from exc
    except OSError as exc:
        raise ArtifactError(f"{folder} cannot be read: {exc.strerror}") from exc
    try:
        yield handles
    except ClipperfError as exc:
        exc.args = tuple(handles.usual(arg) if isinstance(arg, str) else arg for arg in exc.args)
        raise
    finally:
        handles.close()


def stamp(folder: Path) -> Stamp:
    """What changes when a folder is replaced, even by one that stood there before; None: gone."""
    try:
        found, manifest = folder.stat(), (folder / MANIFEST_NAME).stat()
    except OSError:
        return None
    # The times of a change are set by the exchange itself.
    return (
        *(found.st_dev, found.st_ino, found.st_ctime_ns),
        *(manifest.st_dev, manifest.st_ino, manifest.st_mtime_ns, manifest.st_size),
    )


def steadily(
    attempt: Callable[[], tuple[T, bool]], stamps: Callable[[], object], close: Callable[[T], None]
) -> T:
    """What `attempt` opens, tried again where a folder that it read was replaced meanwhile.

    `attempt` says too whether what it opened is of one folder whatever happened meanwhile;
    `stamps` tell a folder from the one in its place, `close` undoes what is not to be used.

    Raises:
        ArtifactError: folders are replaced without a pause; and what `attempt` raises for a folder
            that stayed.
    """
    end = time.monotonic() + TRIES_S
    while True:
        before = stamps()
        try:
            opened, whole = attempt()
        except (ArtifactError, EngineError):
            if stamps() == before or time.monotonic() > end:
                raise
        else:
            if whole or stamps() == before:
                return opened
            close(opened)
            if time.monotonic() > end:
                break
        time.sleep(2 * PAUSE_S * random.random())
    raise ArtifactError(
        "the artifact was replaced again and again while it was opened: end what replaces it"
    )
