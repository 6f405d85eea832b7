"""Artifact folders that are replaced while they are read.

A folder is replaced as a whole, by an exchange of names, and the old one is deleted at once. Who
reads by names may get a part of each. So what is opened is opened through a handle, which stays
the old folder's, or the folder is looked at before and after.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from clipperf.errors import ArtifactError, ClipperfError, EngineError
from clipperf.system.store import MANIFEST_NAME

T = TypeVar("T")

TRIES = 10
PAUSE_S = 0.02
"""Between two tries, more from one to the next."""

Stamp = tuple[int, ...] | None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Path]:
    """A name of the folder that stays its own while another one takes its place.

    Errors raised inside say the folder's usual name. Where the platform has no such names (they
    are Linux's), the usual one is yielded.

    Raises:
        ArtifactError: there is no such folder.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except FileNotFoundError as exc:
        raise ArtifactError(f"{folder}: there is no such file or folder") from exc
    except OSError:  # no handles on folders here; what cannot be read says so when it is
        yield folder
        return
    name = Path(f"/proc/self/fd/{handle}")
    try:
        yield name if name.is_dir() else folder
    except ClipperfError as exc:
        exc.args = tuple(_renamed(arg, name, folder) for arg in exc.args)
        raise
    finally:
        os.close(handle)


def _renamed(said: object, name: Path, folder: Path) -> object:
    return said.replace(f"{name}/", f"{folder}/") if isinstance(said, str) else said


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
    for trial in range(TRIES):
        before = stamps()
        try:
            opened, whole = attempt()
        except (ArtifactError, EngineError):
            if stamps() == before or trial == TRIES - 1:
                raise
        else:
            if whole or stamps() == before:
                return opened
            close(opened)
        time.sleep(PAUSE_S * (trial + random.random()))
    raise ArtifactError(
        "the artifact was replaced again and again while it was opened: end what replaces it"
    )
