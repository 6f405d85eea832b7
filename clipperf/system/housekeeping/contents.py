"""What lies in the store, thing by thing: what `verify` checks, `gc` may remove and `du` counts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipperf.errors import ArtifactError
from clipperf.nouns.artifact import Manifest
from clipperf.system import temporaries
from clipperf.system.store import MANIFEST_NAME, home, read_manifest
from clipperf.system.targets import entries_of, kind_of

Kind = Literal[
    "artifact",
    "graph",
    "cache",
    "embeddings",
    "dataset",
    "result",
    "tuning",
    "note",
    "leftover",
    "other",
]

TITLES: dict[Kind, str] = {
    "artifact": "artifacts",
    "graph": "kept graphs",
    "cache": "what runtimes compiled",
    "embeddings": "kept embeddings and probes",
    "dataset": "datasets",
    "result": "results",
    "tuning": "tunings",
    "note": "notes",
    "leftover": "left by processes that were killed, or being written",
    "other": "not clipperf's",
}

CACHES: frozenset[Kind] = frozenset(("graph", "cache", "embeddings"))
"""What is made again where it is missing, without a command of the user's."""

TUNINGS = "tunings.json"
NOTES = ("digests.json", "fetched.json", TUNINGS)

_FILES: dict[str, tuple[Kind, str]] = {
    "graphs": ("graph", ".onnx"),
    "probes": ("embeddings", ".npy"),
    "results": ("result", ".json"),
    "tuned": ("tuning", ".json"),
}
_ANY: dict[str, Kind] = {"cache": "cache", "embeddings": "embeddings", "datasets": "dataset"}
_LOCK = re.compile(r"\..+\.lock", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One thing of the store: a file, or a folder with all that is in it.

    `manifest` is an artifact's, None where it cannot be read.
    """

    kind: Kind
    path: Path
    manifest: Manifest | None = None

    @property
    def model(self) -> str | None:
        """The id of an artifact's model; where only its place tells, the name of that."""
        if self.kind != "artifact":
            return None
        folder = self.path.parent
        return self.manifest.spec.id if self.manifest else f"{folder.parent.name}/{folder.name}"

    @property
    def setup(self) -> str | None:
        """An artifact's runtime, precision and options, as its folder is named."""
        return self.path.name if self.kind == "artifact" else None


def entries(root: Path | None = None) -> list[Entry]:
    """All that lies in the store, ordered by path. A link to an artifact is one, others are not
    followed below the folders of the store.

    Raises:
        UsageError: a folder cannot be listed.
    """
    root = root or home()
    found: list[Entry] = []
    for path in entries_of(root):
        if path.name == "artifacts":
            found += _artifacts(path)
        elif path.name in _FILES or path.name in _ANY:
            found += _things(path)
        elif is_passing(path.name):
            found.append(Entry("leftover", path))
        else:
            found.append(Entry("note" if path.name in NOTES else "other", path))
    return found


def is_passing(name: str) -> bool:
    """Whether a name is one of those that are gone when their writer ends: staging, locks."""
    return temporaries.is_one(name) or _LOCK.fullmatch(name) is not None


def artifact(folder: Path) -> Entry:
    """The entry of an artifact folder, with its manifest as far as that can be read."""
    try:
        return Entry("artifact", folder, read_manifest(folder))
    except ArtifactError:
        return Entry("artifact", folder)


def is_own_folder(path: Path) -> bool:
    """Whether a folder lies here, and not behind a link."""
    return not path.is_symlink() and kind_of(path) == "folder"


def _artifacts(folder: Path, level: int = 1) -> Iterator[Entry]:
    for path in entries_of(folder):
        if is_passing(path.name):
            yield Entry("leftover", path)
        elif level < 3 and kind_of(path) == "folder":
            yield from _artifacts(path, level + 1)
        elif level == 3 and os.path.lexists(path / MANIFEST_NAME):
            yield artifact(path)
        else:
            yield Entry("other", path)


def _things(top: Path) -> Iterator[Entry]:
    for path in entries_of(top):
        if is_passing(path.name):
            yield Entry("leftover", path)
        elif top.name in _ANY:
            yield Entry(_ANY[top.name], path)
            if is_own_folder(path) and top.name != "cache":
                yield from _leftovers(path)
        else:
            kind, suffix = _FILES[top.name]
            own = path.suffix == suffix and kind_of(path) == "file"
            yield Entry(kind if own else "other", path)


def _leftovers(folder: Path) -> Iterator[Entry]:
    """What killed writers left inside of a folder, at any depth."""
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if temporaries.is_one(name):
                yield Entry("leftover", Path(above, name))
