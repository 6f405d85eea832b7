"""Small files read whole: regular ones only, and no more of them than can be expected."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from clipperf.errors import ArtifactError


def read_small(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file that is not expected to be large.

    Raises:
        ArtifactError: the file is missing, unreadable, no regular file, or too large.
    """
    try:
        # A pipe without a writer would be waited for.
        with open(path, "rb", opener=_opened_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ArtifactError(f"{path} cannot be read: it is no regular file")
            if found.st_size > most_bytes:
                raise ArtifactError(
                    f"{path} cannot be read: it has {found.st_size / 2**20:.0f} MiB, at most "
                    f"{most_bytes / 2**20:.0f} are expected"
                )
            return file.read(most_bytes)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path} does not exist") from exc
    except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
        said = getattr(exc, "strerror", None) or exc
        raise ArtifactError(f"{path} cannot be read: {said}") from exc


def _opened_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
