"""Who in the store refers to its artifacts: tunings by their folder, results by what they measured.

Tunings that lie elsewhere are noted when they are written. Files are read whatever version of
clipperf wrote them, since they refer to artifacts all the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, StorageError, UsageError
from clipperf.nouns.artifact import Manifest
from clipperf.system.files import locked, read_json, write_json
from clipperf.system.housekeeping.contents import TUNINGS
from clipperf.system.reading import regular_bytes
from clipperf.system.store import find_results, home
from clipperf.system.targets import real

Setup = tuple[str, str, str]
"""A model's id, a runtime, a precision."""


@dataclass(frozen=True)
class References:
    """What refers to artifacts: files of tunings by folder, and of results by setup.

    `unread` are tunings that cannot be read, or the note of where they are; they may refer to
    anything.
    """

    tunings: dict[Path, Path]
    results: dict[Setup, Path]
    unread: tuple[Path, ...] = ()

    def tuning_of(self, folder: Path) -> Path | None:
        """A tuning that names an artifact folder."""
        return self.tunings.get(real(folder))

    def result_of(self, manifest: Manifest) -> Path | None:
        """A result that was measured with such an artifact."""
        setup = (manifest.spec.id, manifest.runtime, manifest.precision)
        return self.results.get(setup)


def references(artifact_of: Callable[[str], str | None]) -> References:
    """What the files of the store refer to.

    `artifact_of` says which runtime's artifacts a runtime opens.
    """
    tunings: dict[Path, Path] = {}
    unread = []
    for path in tuning_files():
        try:
            for folder in named_by(path):
                tunings.setdefault(folder, path)
        except ArtifactError:
            unread.append(path)
    results: dict[Setup, Path] = {}
    for path in find_results():
        with contextlib.suppress(ArtifactError):
            for model, runtime, precision in _measured(read_json(path)):
                results[model, artifact_of(runtime) or runtime, precision] = path
    return References(tunings, results, tuple(unread))


def tuning_files() -> list[Path]:
    """The tunings of the store, and those that were written elsewhere and are still there.

    Where the note of the latter is damaged it stands for them, as a tuning that cannot be read.
    """
    try:
        elsewhere = [path for path in _noted() if regular_bytes(path) is not None]
    except ArtifactError:
        elsewhere = [_notes()]
    return [*sorted((home() / "tuned").glob("*.json")), *elsewhere]


def named_by(path: Path) -> list[Path]:
    """The artifact folders that a tuning names, links followed.

    Raises:
        ArtifactError: it cannot be read, or is no tuning.
    """
    found = []
    for tower in _rows(read_json(path), "towers"):
        if isinstance(tower.get("artifact"), str):
            try:
                found.append(real(path.parent / tower["artifact"]))
            except (ValueError, StorageError) as exc:  # no name, or links in a circle
                raise ArtifactError(f"{path} names {tower['artifact']!r}: {exc}") from exc
    if not found:
        raise ArtifactError(f"{path} names no towers: it is no tuning, or is damaged")
    return found


def note_tuning(path: Path) -> None:
    """Note a tuning that is written outside of the store; where that cannot be, nothing is noted.

    One inside is found without. A note that is damaged stays as it is.
    """
    with contextlib.suppress(ArtifactError, StorageError, UsageError):
        if path.parent == home() / "tuned" or path in _noted():
            return
        with locked(_notes()):
            # Where even the folder is not there, it may be on a disk that will be again.
            kept = [p for p in _noted() if regular_bytes(p) is not None or not p.parent.is_dir()]
            write_json(_notes(), [str(each) for each in (*kept, path)])


def _notes() -> Path:
    return home() / TUNINGS


def _noted() -> list[Path]:
    """The tunings that were noted.

    Raises:
        ArtifactError: the note is there and cannot be read.
    """
    if not os.path.lexists(_notes()):
        return []
    found = read_json(_notes())
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise ArtifactError(f"{_notes()} is damaged: it is no list of paths")
    return [Path(path) for path in found]


def _measured(data: Any) -> Iterator[Setup]:
    """The setups of all cells of a result file."""
    rows = [*_rows(data, "measurements"), *_rows(data, "scores")]
    for crossed in _rows(data, "crossed"):
        rows += [{"cell": crossed.get("index")}]
        rows += [crossed["score"]] if isinstance(crossed.get("score"), dict) else []
    for row in rows:
        cell = row.get("cell")
        if isinstance(cell, dict):
            names = [cell.get(name) for name in ("model_id", "runtime", "precision")]
            if all(isinstance(name, str) for name in names):
                model, runtime, precision = map(str, names)
                yield model, runtime, precision


def _rows(data: Any, name: str) -> list[dict[str, Any]]:
    found = data.get(name) if isinstance(data, dict) else None
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
