"""Bytes and folders that cross between machines through one place that all of them see.

The place is a path or a URL of fsspec (``file://``, ``s3://``, ``gs://``, ...). Files lie there
under their sha256 (``blobs/``), so that each is there once, whoever puts it; whoever fetches one
counts it again on the way. What is small lies under a name (``tasks/``), below that of the command
that it is of, its run; so does what is still being written. See `owning`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, MissingDependencyError, StorageError, UsageError
from clipperf.system import files, store
from clipperf.system.extras import install
from clipperf.text import one_line

BLOCK_BYTES = 2**22
BLOBS, TASKS = "blobs", "tasks"
_HERE = ("file", "local")
_TALKATIVE = ("fsspec", "gcsfs", "s3fs")
"""Loggers that would fill standard error where nobody set up logging; errors are told by us."""

for _name in _TALKATIVE:
    logging.getLogger(_name).addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Blob:
    """A file by its content."""

    sha256: str
    size: int


@dataclass(frozen=True)
class SharedFolder:
    """A folder in the shared place: `place` is its path below a store, `files` what it holds."""

    place: str
    files: dict[str, Blob]

    @property
    def digest(self) -> str:
        """Equal for folders of the same content."""
        return files.digest_of(self.files)


class Shared:
    """The shared place at a path or URL, as the command sees it that is called `run` there.

    Raises:
        MissingDependencyError: what fsspec needs for the URL is not installed.
        UsageError: fsspec knows no such URL.
    """

    def __init__(self, url: str, run: str = "") -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as exc:
            said = f"{url} needs fsspec, which is not installed: {install('ray')}"
            raise MissingDependencyError(said) from exc
        try:
            self._fs, self._root = url_to_fs(url)
        except ImportError as exc:
            raise MissingDependencyError(f"{url}: {one_line(str(exc))}") from exc
        except ValueError as exc:
            raise UsageError(f"{url} is no path or URL that fsspec knows: {exc}") from exc
        self.url, self.run = url, run

    def own(self, name: str) -> str:
        """A name below the run's."""
        return "/".join(part for part in (TASKS, self.run, name) if part)

    def path(self, name: str) -> Path | None:
        """Where a name is on this machine; None where the place is none of its kernel's folders."""
        return Path(self._at(name)) if self._is_here else None

    # --- small things ----------------------------------------------------------------------

    def put(self, name: str, data: bytes) -> Blob:
        """Write some bytes under a name, whole or not at all."""
        target = self._at(name)
        with self._translated(target):
            if self._is_here:
                self._here(target, lambda path: path.write_bytes(data))
            else:
                with self._bucket_there():
                    self._fs.pipe_file(target, data)
        return Blob(hashlib.sha256(data).hexdigest(), len(data))

    def get(self, name: str, blob: Blob | None = None) -> bytes:
        """The bytes under a name, which must be those of `blob`.

        Raises:
            ArtifactError: they are not, or there are none.
        """
        target = self._at(name)
        with self._translated(target):
            data: bytes = self._fs.cat_file(target)
        if blob is not None and hashlib.sha256(data).hexdigest() != blob.sha256:
            raise ArtifactError(f"{self.url}: {name} was altered: its sha256 is another")
        return data

    def remove(self, name: str) -> None:
        """Remove what lies under a name, whoever has put it there, if there is something."""
        target = self._at(name)
        with self._translated(target), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(target, recursive=True)

    def names(self, name: str) -> list[str]:
        """What lies in a folder, by its last part."""
        target = self._at(name)
        with self._translated(target), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            paths = [path.rstrip("/") for path in self._fs.ls(target, detail=False)]
            return sorted(path.rpartition("/")[2] for path in paths)
        return []

    def modified(self, name: str) -> datetime:
        """When a file, or the newest of a folder, was written, by the clock of the place."""
        target = self._at(name)
        with self._translated(target):
            self._fs.invalidate_cache()
            found: list[datetime] = [
                self._fs.modified(path) for path in self._fs.find(target) or [target]
            ]
        return max(found)

    # --- files and folders -----------------------------------------------------------------

    def put_folder(self, folder: Path, place: str, names: Sequence[str]) -> SharedFolder:
        """Put files of a folder, those that are not there yet.

        Raises:
            ArtifactError: a file of the folder cannot be read, or goes meanwhile.
        """
        blobs = {}
        for name in names:
            path = folder / name
            digest = store.cached_sha256(path)
            with _source_there(path):
                blobs[name] = Blob(digest, path.stat().st_size)
            self._put_file(path, blobs[name])
        return SharedFolder(place, blobs)

    def fetch_folder(self, shared: SharedFolder, home: Path, *, replace: bool = False) -> Path:
        """The folder on this machine, fetched where it is not: at its place below `home`.

        Where another is there, that makes way with `replace`; without it the folder lies in the
        cache, under its digest.

        Raises:
            ArtifactError: a file is missing in the shared place, or was altered.
            StorageError: the disk is full, or a folder cannot be written.
        """
        for target in (home / shared.place, home / "cache" / "shared" / shared.digest):
            with files.locked(target):
                if not target.exists() or (replace and not self._is_in(shared, target)):
                    with files.staged(target) as staging:
                        for name, blob in shared.files.items():
                            self._fetch_file(blob, staging / name)
                if self._is_in(shared, target):
                    return target
        raise ArtifactError(f"{target} was altered: remove it")

    def _is_in(self, shared: SharedFolder, folder: Path) -> bool:
        """Whether a folder holds all the files of a shared one."""
        try:
            return all(
                (folder / name).stat().st_size == blob.size
                and store.cached_sha256(folder / name) == blob.sha256
                for name, blob in shared.files.items()
            )
        except (OSError, ArtifactError):
            return False

    def _put_file(self, path: Path, blob: Blob) -> None:
        target = self._at(f"{BLOBS}/{blob.sha256}")
        with self._translated(target):
            if self._fs.exists(target) and self._fs.size(target) == blob.size:
                return
            if self._is_here:
                with _source_there(path):
                    self._here(target, lambda staging: _copy(path, staging))
            else:
                with self._bucket_there(), _source_there(path):
                    self._fs.put_file(str(path), target)

    def _fetch_file(self, blob: Blob, target: Path) -> None:
        """Fetch a file; an error of this machine's disk is not one of the shared place."""
        found = hashlib.sha256()
        with files.translated(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as here:
                for block in self._blocks(self._at(f"{BLOBS}/{blob.sha256}")):
                    found.update(block)
                    here.write(block)
                here.flush()
                os.fsync(here.fileno())
        if found.hexdigest() != blob.sha256:
            raise ArtifactError(
                f"{self.url}: a file was altered: its sha256 is {found.hexdigest()}, not "
                f"{blob.sha256}; remove {BLOBS}/{blob.sha256} there"
            )

    def _blocks(self, source: str) -> Iterator[bytes]:
        with self._translated(source), self._fs.open(source, "rb") as there:
            while block := there.read(BLOCK_BYTES):
                yield block

    # --- fsspec ----------------------------------------------------------------------------

    @property
    def _is_here(self) -> bool:
        """Whether it is a folder that this machine's kernel knows."""
        named = self._fs.protocol
        return any(each in _HERE for each in ([named] if isinstance(named, str) else named))

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _here(self, target: str, write: Any) -> None:
        """Write a file under another name, then rename it: nobody sees half of it."""
        path = Path(target)
        staging = Path(self._at(self.own(f".{secrets.token_hex(8)}")))
        for each in (path, staging):
            each.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(staging)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _bucket_there(self) -> Iterator[None]:
        """What is said of writing into a bucket that does not exist; folders need none."""
        try:
            yield
        except FileNotFoundError as exc:
            bucket = self._root.partition("/")[0]
            raise StorageError(
                f"{self.url}: there is no bucket or folder {bucket}: create it"
            ) from exc

    @contextlib.contextmanager
    def _translated(self, target: str) -> Iterator[None]:
        """The many errors of fsspec's backends in our words."""
        try:
            yield
        except FileNotFoundError as exc:
            raise ArtifactError(f"{self.url}: there is no {target}") from exc
        except ImportError as exc:
            raise MissingDependencyError(f"{self.url}: {one_line(str(exc))}") from exc
        except (ArtifactError, StorageError):
            raise
        except OSError as exc:
            if exc.errno in files.FULL:
                said = "is full: free some space there, or give --ray-store another place"
                raise StorageError(f"the shared place {self.url} {said}") from exc
            raise self._unusable(exc) from exc
        except Exception as exc:
            raise self._unusable(exc) from exc

    def _unusable(self, exc: Exception) -> StorageError:
        said = one_line(str(exc)) or type(exc).__name__
        return StorageError(f"{self.url} cannot be read or written: {said}")


@functools.cache
def shared_at(url: str, run: str = "") -> Shared:
    """A shared place, opened once by each process."""
    return Shared(url, run)


@contextlib.contextmanager
def _source_there(path: Path) -> Iterator[None]:
    """Where a file of this machine goes before it is put, nothing is said of the shared place."""
    try:
        yield
    except FileNotFoundError as exc:
        if path.exists():
            raise
        raise ArtifactError(f"{path} was removed before it was copied: make it again") from exc


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as there, target.open("wb") as here:
        while block := there.read(BLOCK_BYTES):
            here.write(block)
        here.flush()
        os.fsync(here.fileno())
