"""Files and folders that survive a kill: atomic writes, staged folders, locks, checksums.

Every file is written under a temporary name (see `temporaries`), fsynced and renamed; a folder is
built aside and exchanged in one system call where the platform has it. Links stay: what they lead
to is replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, StorageError
from clipperf.serialize import parse_json, to_json
from clipperf.system import temporaries
from clipperf.system.reading import read_small
from clipperf.system.targets import into_stream, is_stream, real
from clipperf.text import json_text

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or a user's share of one, that has no room left."""

LOCK_MODE = 0o664
"""Further cut by the umask. Whoever waits for a lock opens its file for writing."""

MOST_JSON_BYTES = 256 * 2**20
"""A result file with the samples of a thousand cells has a tenth of it."""


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def safe_name(text: str) -> str:
    """`text` as a file name on every platform: other characters become "-"."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "unnamed"


@contextlib.contextmanager
def translated(target: Path) -> Iterator[None]:
    """Turn an OSError while writing `target` into a StorageError that says what to do."""
    try:
        yield
    except OSError as exc:
        raise storage_error(target, exc) from exc


def storage_error(target: Path, exc: OSError) -> StorageError:
    """What an OSError while writing `target` means, and what to do about it."""
    if exc.errno in FULL:
        free = _free_bytes(target)
        return StorageError(
            f"disk full while writing {target} ({free / 2**20:.0f} MiB free); what was written "
            f"has been removed. Free some space, or choose another disk with --out or "
            f"CLIPPERF_HOME"
        )
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"cannot write {target}: {exc.strerror}. Choose another folder with --out or "
            f"CLIPPERF_HOME, for results with --json"
        )
    return StorageError(f"cannot write {target}: {exc.strerror or exc}")


def _free_bytes(target: Path) -> int:
    for folder in (target, *target.parents):
        if folder.exists():
            return shutil.disk_usage(folder).free
    return 0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write to; the file takes the place of `path` when the block ends well.

    A kill at any moment leaves either the old content or the new. A link stays a link: the file
    behind it is replaced. What is no file (a device, a pipe, /dev/stdout) is written into.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    if is_stream(path):
        with translated(path), into_stream(path) as temporary:
            yield temporary
        return
    path = real(path)
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporaries.made(path) as temporary:
            yield temporary
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(path, temporary)
            os.replace(temporary, path)
            _fsync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Make sure, before long work, that `path` can be written when it is done.

    Raises:
        StorageError: its folder cannot be made or written.
    """
    with translated(path):
        if is_stream(path):  # opened and closed, a pipe would be at its end for whoever reads it
            if not os.access(path, os.W_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return
        path = real(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporaries.made(path):
            pass


def write_text(path: Path, text: str) -> None:
    """Write a text file, as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: Any) -> None:
    """Write a record or plain JSON values, as `write_text` does."""
    write_text(path, json_text(to_json(data)) + "\n")


def read_json(path: Path, large: bool = False) -> Any:
    """The plain values in a JSON file; see `serialize.parse_json`, also for `large`.

    Raises:
        ArtifactError: the file is missing, unreadable, no regular file, too large, or not JSON.
    """
    return parse_json(read_small(path, MOST_JSON_BYTES), path, large)


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Build a folder aside and exchange it with `target` when the block ends well.

    Yields the empty staging folder. On any error, a full disk included, the staging folder is
    removed and `target` is untouched. A link stays: the folder behind it is exchanged. Hold
    `locked(target)` around it.

    Raises:
        StorageError: the disk is full, the folder cannot be written, or `target` is no folder.
    """
    target = real(target)
    with translated(target):
        check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporaries.made(target, folder=True) as staging:
            yield staging
            for file in staging.rglob("*"):
                found = file.lstat()
                # What has another name was not written here, and need not be readable.
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                    _fsync_file(file)
            _exchange(staging, target)


def check_replaceable(target: Path) -> None:
    """Make sure, before long work, that a folder can take the place of what is at `target`.

    Raises:
        StorageError: that is no folder, nothing can have its name, or a file system is mounted
            there.
    """
    with translated(target):
        try:
            found = target.stat()
        except FileNotFoundError:
            return
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(f"cannot write {target}: it is no folder; choose another one")
    if os.path.ismount(target):
        raise StorageError(
            f"cannot write {target}: a file system is mounted there, so no other folder can take "
            f"its place; name a folder in it"
        )


def _exchange(staging: Path, target: Path) -> None:
    """Put `staging` in the place of `target`; what was there ends up at `staging`."""
    if not os.path.lexists(target):
        os.rename(staging, target)
    elif not _renameat2_exchange(staging, target):
        # Without an atomic exchange the old folder is set aside first. A kill in between leaves
        # it under this name, and `sweep` puts it back.
        aside = temporaries.aside(target)
        temporaries.remove_tree(aside)
        os.rename(target, aside)
        os.rename(staging, target)
        temporaries.remove_tree(aside)
    _fsync_folder(target.parent)


def _renameat2_exchange(first: Path, second: Path) -> bool:
    """Linux's renameat2(RENAME_EXCHANGE); False where kernel, libc or file system lack it."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_cwd, rename_exchange = -100, 2
    done = libc.renameat2(
        at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), ctypes.c_uint(rename_exchange)
    )
    return done == 0


def sweep(target: Path) -> None:
    """Remove what killed writers of a folder left beside it. Hold `locked(target)`."""
    target = real(target)
    aside = temporaries.aside(target)
    if os.path.lexists(aside) and not os.path.lexists(target):
        os.rename(aside, target)
    for leftover in temporaries.of(target):
        if leftover.is_dir():
            temporaries.remove_tree(leftover)


@contextlib.contextmanager
def locked(
    target: Path, timeout_s: float = 3600.0, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock of `target` among processes; the kernel frees it when the holder dies.

    It is a file beside `target`, or beside what a link leads to, and gone with the block.
    `on_wait` is called once where another process holds it.

    Raises:
        StorageError: the folder cannot be written, or another process still holds the lock after
            `timeout_s`.
    """
    import filelock

    target = real(target)
    path = target.with_name(f".{temporaries.label(target)}.lock")
    with translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # filelock takes some folders that cannot be written for a lock that is held.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, LOCK_MODE))
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=min(1.0, timeout_s))
        except filelock.Timeout:
            on_wait()
            lock.acquire(timeout=timeout_s)
    except filelock.Timeout as exc:
        raise StorageError(
            f"another process has been building {target} for {timeout_s:.0f} s; wait for it, "
            f"or end it and repeat the command"
        ) from exc
    except OSError as exc:
        raise storage_error(target, exc) from exc
    try:
        sweep(target)
        yield
    finally:
        # Removed while it is held. Whoever has opened it by now gets a lock of a file without a
        # name, which filelock notices and begins again with the file of that name.
        if not isinstance(lock, filelock.SoftFileLock):
            with contextlib.suppress(OSError):
                path.unlink()
        lock.release()


def _fsync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fsync_folder(path: Path) -> None:
    if sys.platform != "win32":
        _fsync_file(path)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, in hex.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as exc:
        raise ArtifactError(f"{path} cannot be read: {exc.strerror}") from exc


def sha256_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """`sha256_file` of files in a folder, by their paths in there.

    Raises: as `sha256_file`.
    """
    return {name: sha256_file(folder / name) for name in names}


def digest_of(*parts: Any) -> str:
    """A short stable digest of JSON values, for cache keys and ids."""
    text = json.dumps(to_json(parts), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
