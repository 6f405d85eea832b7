"""What may go from the store: planned first, removed when that was agreed to.

Without options only what nothing leads to goes:

- what killed processes left: staging, locks (the kernel's lock of them is free);
- artifacts that cannot be opened: files missing or of another size, a manifest that is damaged or
  that an older clipperf wrote;
- superseded artifacts: `clipperf.load` of a model's name opens others, for another folder has the
  same model, runtime, precision and options, all of its towers, other weights and a later date.

`Choices` says what goes on request. Never removed: results, tunings, datasets, notes of downloads,
what is not clipperf's, an artifact that a tuning names, one that holds files of a user's, links,
and what a running command holds. A file's age is what its time of change says; what lies in the
future has none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipperf.errors import ArtifactError
from clipperf.system import store, temporaries
from clipperf.system.files import read_json, utc_now
from clipperf.system.housekeeping.contents import CACHES, TUNINGS, Entry
from clipperf.system.housekeeping.references import References
from clipperf.system.housekeeping.usage import size_of
from clipperf.system.housekeeping.verify import (
    damaged_files,
    digests_of,
    folder_stamp,
    look,
    newer_or_older,
)


@dataclass(frozen=True)
class Choices:
    """What goes beside what nothing leads to.

    `unused`: artifacts that neither a tuning nor a result of the store refers to; `measured`: also
    those to which results refer; `all_caches`: kept graphs and embeddings, and what runtimes
    compiled. `verified`: caches and artifacts are read, and those of other checksums go.
    `older_than_s`: nothing goes that was written later, but what killed processes left.
    """

    unused: bool = False
    measured: bool = False
    all_caches: bool = False
    verified: bool = False
    older_than_s: float | None = None


@dataclass(frozen=True)
class Removal:
    """One file or folder to remove, and why; `loads`: somebody could open it now.

    `stamp` tells it from what takes its place.
    """

    path: Path
    kind: str
    why: str
    loads: bool = False
    stamp: tuple[int, ...] | None = None
    freed_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """What will go, and what stays although it would go but for a reason.

    `freed_bytes` is what the disk gets back.
    """

    removals: tuple[Removal, ...]
    kept: tuple[tuple[Path, str], ...] = ()
    freed_bytes: int = 0


@dataclass
class _Planning:
    choices: Choices
    refers: References
    ours: Callable[[Path], Callable[[str], bool]]
    now_s: float
    removals: list[Removal] = field(default_factory=list)
    kept: list[tuple[Path, str]] = field(default_factory=list)
    looked: dict[Path, bool] = field(default_factory=dict)

    def altered(self, folder: Path) -> bool:
        """Whether an artifact's files were asked to be read, and are not what was exported."""
        if self.choices.verified and folder not in self.looked:
            self.looked[folder] = bool(look(folder)[0])
        return self.looked.get(folder, False)

    def go(self, entry: Entry, path: Path, why: str, loads: bool = False) -> None:
        """Plan to remove something, unless it is too young."""
        size, limit = size_of([path]), self.choices.older_than_s
        if limit is not None and entry.kind != "leftover":
            if size.newest_s > self.now_s:
                self.kept.append((path, "its time lies in the future, so its age is not known"))
                return
            if self.now_s - size.newest_s <= limit:
                return
        removal = Removal(path, entry.kind, why, loads, stamp_of(path), size.freed)
        self.removals.append(removal)


def plan(
    entries: Sequence[Entry],
    refers: References,
    choices: Choices,
    ours: Callable[[Path], Callable[[str], bool]],
) -> Plan:
    """What may go of these.

    `ours(folder)` tells clipperf's files of an artifact folder, by their paths in there, from a
    user's.
    """
    planning = _Planning(choices, refers, ours, time.time())
    superseding = _superseding(entries, planning.altered)
    for entry in entries:
        if entry.kind == "leftover":
            _plan_leftover(entry, planning)
        elif entry.kind == "artifact":
            _plan_artifact(entry, superseding.get(entry.path), planning)
        elif entry.kind in CACHES:
            _plan_cache(entry, planning)
        elif entry.kind == "note" and choices.verified and _is_damaged_note(entry.path):
            planning.go(entry, entry.path, "damaged")
    order = sorted(planning.removals, key=lambda each: (-each.freed_bytes, str(each.path)))
    freed = size_of(each.path for each in order).freed
    return Plan(tuple(order), tuple(planning.kept), freed)


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file or folder from what takes its place; None where there is nothing."""
    try:
        found = path.lstat()
    except OSError:
        return None
    manifest = folder_stamp(path)
    return (found.st_dev, found.st_ino, found.st_mtime_ns) if manifest is None else manifest


# --- each kind -----------------------------------------------------------------------------


def _plan_leftover(entry: Entry, planning: _Planning) -> None:
    path = entry.path
    if temporaries.is_aside(path.name):
        planning.kept.append((path, "waits to be put back by the next export of it"))
        return
    try:
        with temporaries.without_writer(path) as dead:
            if not dead:
                said = "a running process holds it, or the file system has no locks that tell"
                planning.kept.append((path, said))
                return
    except FileNotFoundError:  # its writer has just ended
        return
    except OSError as exc:
        planning.kept.append((path, f"it cannot be looked at: {exc.strerror}"))
        return
    planning.go(entry, path, "left by a process that is gone")


def _plan_artifact(entry: Entry, by: Path | None, planning: _Planning) -> None:
    choices, made, loads = planning.choices, entry.manifest, True
    if (reason := _unreachable(entry)) is not None:
        planning.kept.append((entry.path, f"it cannot be read now: {reason}"))
        return
    why = _unopenable(entry)
    if why is not None:
        loads = False
    elif by is not None:
        why = f"superseded by {by}"
    elif made is not None and planning.altered(entry.path):
        why = "damaged: a file is not what was exported"
    elif made is not None and (choices.unused or choices.measured):
        measured = planning.refers.result_of(made) is not None
        why = "only results refer to it" if measured else "nothing in the store refers to it"
    if why is None:
        return
    stays = _protected(entry, planning)
    if stays is None:
        planning.go(entry, entry.path, why, loads)
    elif stays:
        planning.kept.append((entry.path, f"{why}; {stays}"))


def _unreachable(entry: Entry) -> str | None:
    """What keeps this user from files that are there, or may be; None where nothing does."""
    files = {} if entry.manifest is None else digests_of(entry.manifest)
    for name in (store.MANIFEST_NAME, *files):
        try:
            with open(entry.path / name, "rb"):
                pass
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            continue
        except OSError as exc:
            return f"{name}: {exc.strerror}"
    return None


def _unopenable(entry: Entry) -> str | None:
    """Why nothing can open an artifact; None where it opens, or a newer clipperf wrote it."""
    if entry.manifest is None:
        newer = newer_or_older(entry.path)
        if newer is None:
            return "damaged: its manifest cannot be read"
        return None if newer else "an older clipperf wrote it, and this one cannot open it"
    problems = store.check_files(entry.path, entry.manifest)
    return f"damaged: {problems[0]}" if problems else None


def _protected(entry: Entry, planning: _Planning) -> str | None:
    """Why an artifact stays; "" where that needs no words; None: it may go."""
    refers, choices = planning.refers, planning.choices
    if entry.path.is_symlink():
        return "it is a link: remove it by hand, and what it leads to"
    if (tuning := refers.tuning_of(entry.path)) is not None:
        return f"the tuning {tuning} names it"
    if refers.unread:
        return f"the tuning {refers.unread[0]} cannot be read and may name it: mend or remove that"
    result = None if entry.manifest is None else refers.result_of(entry.manifest)
    if result is not None and not choices.measured:
        return "" if choices.unused else f"{result.name} was measured with it (--measured)"
    foreign = _foreign(entry.path, planning.ours(entry.path))
    if foreign is not None:
        return f"it holds {foreign}, which is not clipperf's: move that away"
    return None


def _foreign(folder: Path, ours: Callable[[str], bool]) -> str | None:
    hidden: list[OSError] = []
    for above, folders, files in os.walk(folder, onerror=hidden.append):
        for path in sorted(Path(above, name) for name in (*folders, *files)):
            name = path.relative_to(folder).as_posix()
            if (path.is_symlink() or not path.is_dir()) and not ours(name):
                return name
    return "a folder that cannot be listed" if hidden else None


def _plan_cache(entry: Entry, planning: _Planning) -> None:
    if planning.choices.all_caches:
        planning.go(entry, entry.path, "is made again where it is missing")
    elif planning.choices.verified:
        for path in damaged_files(entry):
            planning.go(entry, path, "damaged: its checksum differs")


def _is_damaged_note(path: Path) -> bool:
    """Whether a note is damaged that is made again by itself; that of tunings is not."""
    if path.name == TUNINGS:
        return False
    try:
        return not isinstance(read_json(path), dict | list)
    except ArtifactError:
        return True


def _superseding(entries: Iterable[Entry], altered: Callable[[Path], bool]) -> dict[Path, Path]:
    """Of each artifact that no name leads to any more the folder that has its name."""
    alike: dict[tuple[str, str], list[Entry]] = {}
    now = utc_now()
    for entry in entries:
        made = entry.manifest
        if made is None or made.created_utc > now or store.check_files(entry.path, made):
            continue
        if altered(entry.path):
            continue
        alike.setdefault((made.spec.id, entry.path.name), []).append(entry)
    found: dict[Path, Path] = {}
    for group in alike.values():
        for old in group:
            newer = (new for new in group if _supersedes(new, old))
            if (new := next(newer, None)) is not None:
                found[old.path] = new.path
    return found


def _supersedes(new: Entry, old: Entry) -> bool:
    if new.manifest is None or old.manifest is None:
        return False
    sides = {tower.side for tower in old.manifest.towers}
    return (
        sides <= {tower.side for tower in new.manifest.towers}
        and new.path.parent.parent == old.path.parent.parent
        and new.manifest.created_utc > old.manifest.created_utc
    )
