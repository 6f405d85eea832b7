"""Whether all that the store holds is what was written: every checksum, read from the disk.

Nothing that was remembered of a file is taken for its content. Where a file is not what an export
wrote, that is noted in `digests.json`, so that the next export finds out as well, without reading.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, ClipperfError
from clipperf.nouns.artifact import Manifest
from clipperf.nouns.tuning import Tuning
from clipperf.nouns.variant import PIXEL_DTYPES
from clipperf.system import store
from clipperf.system.files import read_json, sha256_file
from clipperf.system.housekeeping.contents import CACHES, TITLES, TUNINGS, Entry, Kind
from clipperf.system.housekeeping.references import tuning_files
from clipperf.system.reading import regular_bytes
from clipperf.system.sealed import CHECKSUMS, GRAPH_MARK, folder_is_whole, is_sealed
from clipperf.system.targets import kind_of

COLLECT = "clipperf store gc --verify"
"""The command that removes what is damaged and is made again where it is missing."""

TRIES = 5
"""How often an artifact is looked at again that was replaced meanwhile."""


@dataclass(frozen=True)
class Damage:
    """What is wrong with one thing of the store, and the command that mends it."""

    entry: Entry
    problems: tuple[str, ...]
    fix: str


@dataclass
class Verified:
    """What came of it: how many things of each kind were checked, their bytes, what is damaged.

    `unchecked` counts things by why nothing can be said of them.
    """

    checked: dict[Kind, int] = field(default_factory=dict)
    bytes_read: dict[Kind, int] = field(default_factory=dict)
    damaged: list[Damage] = field(default_factory=list)
    unchecked: dict[str, int] = field(default_factory=dict)

    def count(self, kind: Kind, read: int) -> None:
        """One thing was checked."""
        self.checked[kind] = self.checked.get(kind, 0) + 1
        self.bytes_read[kind] = self.bytes_read.get(kind, 0) + read

    def leave(self, why: str) -> None:
        """One thing was not checked."""
        self.unchecked[why] = self.unchecked.get(why, 0) + 1


def verify(entries: Iterable[Entry], on_entry: Callable[[int], None] = lambda n: None) -> Verified:
    """Check all of these; `on_entry` is called before each, with its number from 1."""
    found = Verified()
    for number, entry in enumerate(entries, 1):
        on_entry(number)
        _check(entry, found)
    return found


def _check(entry: Entry, found: Verified) -> None:
    if entry.kind == "artifact":
        _artifact(entry, found)
    elif entry.kind in CACHES:
        _cache(entry, found)
    elif entry.kind in ("result", "tuning", "note"):
        _file(entry, found)
    elif entry.kind == "dataset":
        found.leave("datasets carry no checksums")
    elif entry.kind == "leftover":
        found.leave("left by processes that were killed, or being written: clipperf store gc")
    else:
        found.leave("not clipperf's")


# --- artifacts -----------------------------------------------------------------------------


def _artifact(entry: Entry, found: Verified) -> None:
    for _ in range(TRIES):
        before = folder_stamp(entry.path)
        if before is None:  # removed meanwhile
            return
        problems, fix, read = look(entry.path)
        if not problems or folder_stamp(entry.path) == before:
            break
    else:
        found.leave("artifacts that were replaced again and again meanwhile")
        return
    if problems and newer_or_older(entry.path) is not None:
        found.leave("artifacts of another version of clipperf, which this one cannot open")
        return
    found.count("artifact", read)
    if problems:
        found.damaged.append(Damage(entry, tuple(problems), fix))


def look(folder: Path) -> tuple[list[str], str, int]:
    """What is wrong with an artifact, the command that mends it, and how many bytes were read."""
    try:
        manifest = store.read_manifest(folder)
    except ArtifactError as exc:
        return [str(exc)], "export the model again with the same options", 0
    problems, read = store.check_files(folder, manifest), 0
    for name, digest in digests_of(manifest).items():
        size = regular_bytes(folder / name)
        if size is None:
            continue
        read += size
        try:
            now = sha256_file(folder / name)
        except ArtifactError as exc:
            problems.append(str(exc))
            continue
        if now != digest:
            problems.append(f"{name} was altered: its sha256 is not the manifest's")
            store.remember_sha256(folder / name, now)
    return problems, again(manifest), read


def digests_of(manifest: Manifest) -> dict[str, str]:
    """The sha256 of every file of an artifact, its own and its towers', by their paths in it."""
    return {**manifest.files, **{n: d for t in manifest.towers for n, d in t.files.items()}}


def folder_stamp(folder: Path) -> tuple[int, ...] | None:
    """What tells an artifact folder from one that took its place; None where there is none."""
    try:
        found = folder.stat()
        manifest = (folder / store.MANIFEST_NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, manifest.st_ino, manifest.st_mtime_ns


def newer_or_older(folder: Path) -> bool | None:
    """Whether a newer clipperf wrote a manifest, or an older one; None: this one, or unknown."""
    try:
        data = read_json(folder / store.MANIFEST_NAME)
    except ArtifactError:
        return None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or version == store.SCHEMA_VERSION:
        return None
    return version > store.SCHEMA_VERSION


def again(manifest: Manifest) -> str:
    """The command that makes an artifact of the store again, as far as its manifest tells."""
    if not manifest.towers:
        return f"clipperf export {manifest.spec.id}"
    spec, first = manifest.spec, manifest.towers[0]
    words = ["clipperf", "export", spec.id]
    if spec.source is not None or Path(spec.pretrained).is_absolute():
        words[2:] = [spec.source or spec.architecture, "--pretrained", spec.pretrained]
        for option, size in re.findall(r"@(\d+)(px|tokens)", spec.id):
            words += ["--image-size" if size == "px" else "--context-length", option]
    words += ["--runtime", manifest.runtime, "--precision", manifest.precision]
    words += ["--tower", first.side] if len(manifest.towers) == 1 else []
    words += ["--normalize"] if first.normalized else []
    image = manifest.tower("image")
    if image is not None:
        dtype = image.inputs[0].dtype
        words += ["--input", dtype] if dtype in PIXEL_DTYPES[1:] else []
        words += ["--features"] if image.features is not None else []
    said = ", ".join(f"{name} {value}" for name, value in first.options.items())
    return shlex.join(words) + (f" (with the options that it had: {said})" if said else "")


# --- caches and files ----------------------------------------------------------------------


def _cache(entry: Entry, found: Verified) -> None:
    path = entry.path
    if entry.kind == "cache" and kind_of(path / CHECKSUMS) != "file":
        found.leave("what runtimes compiled without a checksum; they check it themselves")
        return
    files = [path] if kind_of(path) == "file" else sorted(p for p in path.rglob("*") if p.is_file())
    damaged = damaged_files(entry)
    found.count(entry.kind, sum(regular_bytes(file) or 0 for file in files))
    if damaged:
        said = "is not what was kept: its checksum differs"
        problems = [f"{p.name} {said}" for p in damaged if p.exists()]
        if problems:
            found.damaged.append(Damage(entry, tuple(problems), COLLECT))


def damaged_files(entry: Entry) -> list[Path]:
    """The files of a cache's entry that are not what was kept; a folder that goes as a whole."""
    path = entry.path
    if entry.kind == "graph":
        return [] if is_sealed(path, GRAPH_MARK) else [path]
    if entry.kind == "embeddings":
        files = [path] if kind_of(path) == "file" else sorted(path.glob("*.npy"))
        return [file for file in files if not is_sealed(file)]
    if entry.kind == "cache" and kind_of(path / CHECKSUMS) == "file":
        return [] if folder_is_whole(path) else [path]
    return []


def _file(entry: Entry, found: Verified) -> None:
    try:
        if entry.kind in ("result", "tuning") and store.is_of_another_version(entry.path):
            found.leave(f"{TITLES[entry.kind]} of another version of clipperf")
            return
        problem, fix = _READERS[entry.kind](entry.path)
    except ClipperfError as exc:
        problem, fix = str(exc), _FIXES[entry.kind]
        if entry.path.name == TUNINGS:
            fix = "remove it: gc then knows of no tunings outside of the store"
    found.count(entry.kind, regular_bytes(entry.path) or 0)
    if problem and entry.path.exists():
        found.damaged.append(Damage(entry, (problem,), fix))


def _result(path: Path) -> tuple[str, str]:
    store.read_result(path)
    return "", ""


def _tuning(path: Path) -> tuple[str, str]:
    tuning = read_tuning(path)
    again = f"clipperf tune {tuning.spec.id}"
    for tower in tuning.towers:
        folder = path.parent / tower.artifact
        if kind_of(folder) != "folder":
            return f"it names {folder}, which is not there", again
        manifest = store.read_manifest(folder)
        now = manifest.tower(tower.cell.side)
        if now is None or now.key != tower.key:
            return f"{folder} was exported anew since it was measured", again
    return "", ""


def read_tuning(path: Path) -> Tuning:
    """A tuning's record.

    Raises:
        ArtifactError: it is damaged, or of another version of clipperf.
    """
    fix = _FIXES["tuning"]
    return store.record_of(Tuning, store.read_versioned(path, fix), path, fix)


def _note(path: Path) -> tuple[str, str]:
    found: Any = read_json(path)
    if not isinstance(found, dict | list):
        raise ArtifactError(f"{path} is damaged")
    return "", ""


_READERS: dict[Kind, Callable[[Path], tuple[str, str]]] = {
    "result": _result,
    "tuning": _tuning,
    "note": _note,
}
_FIXES: dict[Kind, str] = {
    "result": "measure again, and remove the file",
    "tuning": "run clipperf tune again",
    "note": COLLECT,
}


def elsewhere(entries: Iterable[Entry]) -> list[Entry]:
    """The tunings outside of the store that name artifacts in it, as entries to check."""
    own = {entry.path for entry in entries}
    return [Entry("tuning", path) for path in tuning_files() if path not in own]


def kinds_of(found: Verified) -> list[tuple[str, int, int, int]]:
    """For each kind: its title, how many were checked, the bytes read, and how many are damaged."""
    rows = []
    for kind, title in TITLES.items():
        if kind in found.checked:
            bad = sum(damage.entry.kind == kind for damage in found.damaged)
            rows.append((title, found.checked[kind], found.bytes_read[kind], bad))
    return rows
