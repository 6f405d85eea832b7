"""The artifact store and the result files: what lies where; `files` says how it is written.

Layout under `home()` ($CLIPPERF_HOME, else the user's cache folder)::

    artifacts/ARCHITECTURE/WEIGHTS/RUNTIME-PRECISION/   one deployable folder, see Manifest
    results/DATE-KIND-ID.json                           one run of `profile` or `eval`
    tuned/MODEL.json                                    what `tune` chose for this machine
    graphs/KEY.onnx                                     an architecture's graph without weights
    embeddings/WHO/INPUTS.npy, probes/KEY.npy           what evaluations keep, see evals.kept
    datasets/NAME/                                      published datasets that were fetched
    cache/                                              what runtimes compile and can make again
    digests.json                                        sha256 by path, size and times
    fetched.json, tunings.json                          where weights and other tunings lie
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import re
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from clipperf.errors import ArtifactError, ClipperfError, StorageError, UsageError
from clipperf.nouns.artifact import Manifest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import ResultFile
from clipperf.nouns.variant import Side
from clipperf.serialize import from_json
from clipperf.system.files import digest_of, read_json, safe_name, sha256_file, write_json
from clipperf.system.reading import regular_bytes
from clipperf.system.targets import expanded
from clipperf.system.upgraded import unreadable, upgraded

T = TypeVar("T")

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"


def home() -> Path:
    """The folder that holds artifacts and results; set CLIPPERF_HOME to move it.

    Raises:
        UsageError: the environment names none, and the user has no home folder.
    """
    chosen = os.environ.get("CLIPPERF_HOME")
    if chosen:
        return expanded(chosen)
    windows = sys.platform == "win32"
    caches = os.environ.get("LOCALAPPDATA" if windows else "XDG_CACHE_HOME")
    if caches:
        return expanded(Path(caches, "clipperf"))
    try:
        return expanded("~/clipperf" if windows else "~/.cache/clipperf")
    except UsageError as exc:
        raise UsageError(
            "this user has no home folder: set CLIPPERF_HOME to a folder for artifacts and results"
        ) from exc


def cache_folder() -> Path | None:
    """Where runtimes keep what they compile; they make it when they have something to keep.

    None for a user without a home folder: what is deployed needs none.
    """
    try:
        return home() / "cache"
    except UsageError:
        return None


# --- checksums -----------------------------------------------------------------------------


def cached_sha256(path: Path, remember: bool = True) -> str:
    """`sha256_file`, remembered by path, size, times and inode in `home()/digests.json`.

    Without `remember` nothing is written.

    Raises:
        ArtifactError: the file cannot be read.
    """
    known = known_sha256(path)
    if known is not None:
        return known
    digest = sha256_file(path)
    if remember:
        remember_sha256(path, digest)
    return digest


def known_sha256(path: Path) -> str | None:
    """What `cached_sha256` knows without reading the file, else None.

    Raises:
        ArtifactError: the file cannot be read.
    """
    known = _digests().get(str(path.absolute()))
    if isinstance(known, list) and known[:-1] == _stamp(path):
        digest = known[-1]
        if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
            return digest
    return None


def remember_sha256(path: Path, digest: str) -> None:
    """Note the sha256 of a file just written, so that the next look need not read it.

    Where it cannot be noted, the next look reads the file.
    """
    known = {**_digests(), str(path.absolute()): [*_stamp(path), digest]}
    with contextlib.suppress(StorageError, UsageError):  # full, or no home folder
        write_json(home() / "digests.json", known)


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError as exc:
        raise ArtifactError(f"{path} cannot be read: {exc.strerror}") from exc
    # The mtime can be set to anything, as `cp -p` does; the ctime cannot.
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns]


def _digests() -> dict[str, Any]:
    """What is remembered; nothing where the file is missing or damaged, or nobody is at home."""
    try:
        found = read_json(home() / "digests.json")
    except (ArtifactError, UsageError):
        return {}
    return found if isinstance(found, dict) else {}


# --- artifacts -----------------------------------------------------------------------------


def artifact_folder(spec: ModelSpec, weights_id: str, runtime: str, variant: str) -> Path:
    """Where the store keeps one model in one runtime and variant (precision and options).

    `weights_id` is part of the path, so two checkpoints of one architecture never meet.
    """
    weights = f"{safe_name(spec.id.partition('::')[2] or 'default')}-{digest_of(weights_id)[:8]}"
    return home() / "artifacts" / safe_name(spec.architecture) / weights / f"{runtime}-{variant}"


def read_manifest(folder: Path) -> Manifest:
    """Read and validate an artifact folder's manifest.

    Raises:
        ArtifactError: there is none, it is damaged, or a newer clipperf wrote it.
    """
    path = folder / MANIFEST_NAME
    fix = "export the model again, or use the clipperf that wrote it"
    try:
        values = read_versioned(path, fix)
    except ArtifactError as exc:
        if not is_missing(exc):
            raise
        raise ArtifactError(
            f"{folder} holds no {MANIFEST_NAME}: it is not an artifact folder. "
            f"Make one with: clipperf export MODEL --out {folder}"
        ) from exc
    manifest = record_of(Manifest, values, path, fix)
    if manifest.contradiction is not None:
        raise ArtifactError(f"{path}: {manifest.contradiction}; {path.name} is damaged: {fix}")
    return manifest


def read_versioned(path: Path, fix: str, schema_version: int = SCHEMA_VERSION) -> dict[str, Any]:
    """The JSON object in a file of a schema version; `record_of` checks its fields.

    Raises:
        ArtifactError: it is missing, damaged, or of another version; `fix` ends the message.
    """
    try:
        data = read_json(path)
    except ArtifactError as exc:
        if isinstance(exc.__cause__, OSError):  # which says nothing of what is in it
            raise
        raise ArtifactError(f"{exc}; {path.name} is damaged: {fix}") from exc
    version = _version_in(data)
    if version != schema_version:
        raise ArtifactError(
            f"{path} was written by another version of clipperf (schema version {version}, this "
            f"one reads {schema_version}): {fix}"
        )
    return dict(data)


def is_missing(error: ArtifactError) -> bool:
    """Whether a file could not be read because there is none."""
    return isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)


def _version_in(data: Any) -> Any:
    """The schema version that a file's values name; None where they name none."""
    return data.get("schema_version") if isinstance(data, dict) else None


def record_of(cls: type[T], data: Any, path: Path, fix: str) -> T:
    """The record that a file's values are, every field checked.

    Raises:
        ArtifactError: they are not; the message names the field and ends with `fix`.
    """
    try:
        return from_json(cls, data, str(path))
    except ArtifactError as exc:
        raise ArtifactError(f"{exc}; {path.name} is damaged: {fix}") from exc


def check_files(
    folder: Path, manifest: Manifest, content: bool = False, remember: bool = True
) -> list[str]:
    """What is wrong with an artifact folder's files: missing, of another size, or altered.

    With `content` every sha256 is compared too (read again only where a file's size or times
    changed; with `remember` what was read is noted for the next time), else only existence and
    the towers' sizes.
    """
    problems = []
    expected = dict(manifest.files)
    for tower in manifest.towers:
        expected.update(tower.files)
        sizes = [regular_bytes(folder / name) for name in tower.files]
        present = [size for size in sizes if size is not None]
        if len(present) == len(sizes) and sum(present) != tower.disk_bytes:
            problems.append(f"{tower.path}: {sum(present)} bytes, expected {tower.disk_bytes}")
    for name, digest in expected.items():
        if regular_bytes(folder / name) is None:
            problems.append(f"{name} is missing")
        elif content and not _is(folder / name, digest, remember):
            problems.append(f"{name} was altered: its sha256 is not the manifest's")
    return problems


def _is(path: Path, digest: str, remember: bool) -> bool:
    """Whether a file has a digest; what is remembered accuses nobody."""
    if known_sha256(path) == digest:
        return True
    found = sha256_file(path)
    if remember:
        remember_sha256(path, found)
    return found == digest


def find_artifacts(root: Path | None = None) -> list[tuple[Path, Manifest]]:
    """Every usable artifact folder of the store, by path; others may come and go meanwhile."""
    found = []
    pattern = f"{glob.escape(str(root or home() / 'artifacts'))}/*/*/*/{MANIFEST_NAME}"
    for path in map(Path, sorted(glob.glob(pattern))):  # noqa: PTH207
        try:
            manifest = read_manifest(path.parent)
        except ClipperfError:
            continue
        if not check_files(path.parent, manifest):
            found.append((path.parent, manifest))
    return found


# --- results -------------------------------------------------------------------------------


def new_result_path(kind: str) -> Path:
    """A fresh path for a result file; names sort by time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return home() / "results" / f"{stamp}-{kind}-{secrets.token_hex(3)}.json"


def write_result(path: Path, result: ResultFile) -> None:
    """Write a result file whole; `results.filled` does it after every row."""
    write_json(path, result)


def read_result(path: Path) -> ResultFile:
    """Read and validate one result file, an older one as `upgraded`; `path` is filled in.

    Raises:
        ArtifactError: missing, damaged, or of a schema version that cannot be read.
    """
    data = upgraded(read_json(path))
    if (version := _version_in(data)) != SCHEMA_VERSION:
        raise ArtifactError(f"{path} {unreadable(version)}")
    if data.get("kind") == "tuning":
        raise ArtifactError(f"{path} is a tuning, not measurements: clipperf.load opens it")
    found = from_json(ResultFile, data, str(path))
    if found.impossible is not None:
        raise ArtifactError(f"{path} is damaged, it says {found.impossible}: measure again")
    return dataclasses.replace(found, path=str(path))


def tuning_path(spec: ModelSpec, sides: Sequence[Side]) -> Path:
    """Where the store keeps the tuning of these towers of a model on this machine."""
    one = f"-{sides[0]}" if len(sides) == 1 else ""
    return home() / "tuned" / f"{safe_name(spec.id)}{one}.json"


def find_results() -> list[Path]:
    """The store's result files, oldest first."""
    return sorted((home() / "results").glob("*.json"))


def is_of_another_version(path: Path) -> bool:
    """Whether a result file is whole, and another version of clipperf wrote it."""
    try:
        data = upgraded(read_json(path))
    except ArtifactError:
        return False
    version = _version_in(data)
    return isinstance(version, int) and version != SCHEMA_VERSION
