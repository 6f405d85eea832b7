"""What is done on another machine for a command at home: artifacts made, jobs run.

Artifacts and rows cross through a shared place (`system.cluster.shared`), with checksums. Each
function is one task's (`system.cluster.tasks`); the first argument tells whoever waits at home.
"""

from __future__ import annotations

import functools
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipperf.bench import prepare
from clipperf.bench.jobs import Event, Job, Prepared, run_job
from clipperf.bench.retries import tried_twice
from clipperf.errors import ArtifactError, ClipperfError, StorageError
from clipperf.models.family import family_of
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment
from clipperf.nouns.variant import Side, Variant
from clipperf.serialize import from_json, parse_json, to_json
from clipperf.system import env, store
from clipperf.system.cluster.remote import Tell
from clipperf.system.cluster.shared import Blob, Shared, SharedFolder, shared_at
from clipperf.system.housekeeping.in_use import using

EVENTS = "events.json"
CLOCK_S = 2.0
"""By what the clock of a file system may be behind."""


@dataclass(frozen=True)
class Place:
    """Where things cross: the shared place, a command's folder in it, and a task's in that."""

    url: str
    run: str
    task: str = ""

    @property
    def shared(self) -> Shared:
        """The place, opened once by each process."""
        return shared_at(self.url, self.run)

    def name(self, file: str = "") -> str:
        """The name of a file of the task in the shared place."""
        return self.shared.own("/".join(part for part in (self.task, file) if part))

    def inside(self, name: str | None = None) -> Place:
        """A folder in this one; without a name one that nobody else has.

        A task that is lost and done again may still be at work: each time has a folder of its own.
        """
        name = name or secrets.token_hex(8)
        return replace(self, task=f"{self.task}/{name}" if self.task else name)


def place_of(shared: Shared) -> Place:
    """Where a command's things cross."""
    return Place(shared.url, shared.run)


def new_place(shared: Shared) -> Place:
    """Where those of a new task do."""
    return place_of(shared).inside()


@dataclass(frozen=True)
class Made:
    """What came of preparing one cell: what opens it, the folder that this lies in, or the error.

    The path in it is that of the machine which made it. The error brings along who ended a process
    that was to make it, see `retries.ended_of`.
    """

    prepared: Prepared | None = None
    folder: SharedFolder | None = None
    error: ClipperfError | None = None


@dataclass(frozen=True)
class Crossed:
    """Events that lie in the shared place."""

    name: str
    blob: Blob


@functools.cache
def here() -> Environment:
    """This machine, looked at once by each process."""
    return env.capture()


# --- artifacts -----------------------------------------------------------------------------


def make(
    tell: Tell,
    cells: Sequence[Cell],
    spec: ModelSpec,
    largest_batch: int,
    place: Place,
    known: Sequence[SharedFolder],
) -> tuple[list[Made], list[SharedFolder]]:
    """Make what opens some cells of a model, and share it; all folders that were made on the way.

    `known` are those of the model that are shared already: they are fetched where there are none.

    Raises:
        StorageError: the disk, or the shared place, is full.
    """
    shared, begun_s = place.shared, time.time()
    found: list[Made] = []
    with using():
        fetch_missing(shared, known)
        for cell in cells:
            try:
                ask = functools.partial(prepare.engine_request, cell, spec, tell, largest_batch)
                request, disk_bytes = tried_twice(ask)
            except StorageError:
                raise
            except ClipperfError as exc:
                found.append(Made(error=exc))
                continue
            folder = None if request.path is None else share(shared, folder_of(request.path))
            # Asked once they are here, as making has them fetched.
            weights = None if spec.random_weights or folder else prepare.weights_of(spec)
            found.append(Made(Prepared(request, disk_bytes, weights=weights), folder))
        folders = [made.folder for made in found if made.folder is not None]
        return found, made_since(shared, folders, begun_s)


def make_tower(
    tell: Tell,
    spec: ModelSpec,
    side: Side,
    variant: Variant,
    device: str,
    batches: tuple[int, int],
    place: Place,
    known: Sequence[SharedFolder],
) -> SharedFolder:
    """Make the folder that a tower is opened from, and share it; `known` as for `make`.

    Raises:
        ClipperfError: it cannot be made, or the runtime cannot be used here.
    """
    shared = place.shared
    with using():
        prepare.check_usable({variant.runtime: device})
        fetch_missing(shared, known)
        return share(shared, prepare.artifact_folder(spec, [side], variant, tell, batches))


def folder_of(path: str) -> Path:
    """The artifact folder that a tower's file lies in."""
    folder = Path(path).parent
    while not (folder / store.MANIFEST_NAME).exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def share(shared: Shared, folder: Path) -> SharedFolder:
    """Put an artifact folder where others can fetch it."""
    manifest = store.read_manifest(folder)
    names = {*manifest.files, *(name for tower in manifest.towers for name in tower.files)}
    home = store.home()
    inside = folder.is_relative_to(home)
    place = folder.relative_to(home).as_posix() if inside else f"cache/shared/{folder.name}"
    return shared.put_folder(folder, place, [*sorted(names), store.MANIFEST_NAME])


def fetch_missing(shared: Shared, known: Sequence[SharedFolder]) -> None:
    """Fetch the folders that are not here, or with fewer towers: nothing of them is made again."""
    for folder in known:
        own = store.home() / folder.place
        if not own.exists():
            shared.fetch_folder(folder, store.home())
        elif has_less(own, folder):
            shared.fetch_folder(folder, store.home(), replace=True)


def has_less(own: Path, folder: SharedFolder) -> bool:
    """Whether a folder holds some of a shared one's towers, and nothing else."""
    try:
        manifest = store.read_manifest(own)
    except ArtifactError:
        return False
    names = {path.relative_to(own).as_posix() for path in own.rglob("*") if path.is_file()}
    towers = {name: digest for tower in manifest.towers for name, digest in tower.files.items()}
    return names < folder.files.keys() and all(
        folder.files[name].sha256 == digest
        for name, digest in towers.items()
        if name in folder.files
    )


def made_since(
    shared: Shared, folders: Sequence[SharedFolder], begun_s: float
) -> list[SharedFolder]:
    """These folders and all of their models' that are new: those that they are made from, too."""
    found = {folder.place: folder for folder in folders}
    for place in {Path(place).parent for place in found}:
        for manifest in sorted((store.home() / place).glob(f"*/{store.MANIFEST_NAME}")):
            own = manifest.parent.relative_to(store.home()).as_posix()
            if own not in found and manifest.stat().st_mtime >= begun_s - CLOCK_S:
                found[own] = share(shared, manifest.parent)
    return list(found.values())


# --- jobs ----------------------------------------------------------------------------------


def measure(
    tell: Tell, job: Job, folders: dict[str, SharedFolder], place: Place, facts: Sequence[str]
) -> tuple[Environment, Crossed]:
    """Run a job here; its rows and notes lie in the shared place when it has ended.

    Memory rows, which take turns with nobody, lie there one by one, and are told of. `folders` are
    those of the job's artifacts, by the paths of what lies in them. What texts are made of is asked
    here, where the model's files are.
    """
    shared, place = place.shared, place.inside()
    kept: list[Event] = [Event("fact", fact, group=job.group) for fact in facts]
    number = 0

    def on_event(event: Event) -> None:
        nonlocal number
        row = event.measurement
        if event.kind == "started":
            tell(event)
        elif row is not None and row.kind == "memory" and row.status == "ok":
            number += 1
            tell((here(), put(shared, place, f"memory-{number}.json", [event])))
        elif event.kind != "finished":
            kept.append(event)
            if row is not None:
                tell(Event("started", event.text, group=job.group))

    with using():
        cells = tuple(fetched(cell, folders, shared) for cell in job.cells)
        run_job(with_texts(replace(job, cells=cells)), here(), (), on_event)
    return here(), put(shared, place, EVENTS, kept)


def fetched(cell: Prepared, folders: dict[str, SharedFolder], shared: Shared) -> Prepared:
    """A cell with its artifact on this machine; why it cannot be had stands in its error."""
    request = cell.request
    if request.path is None or cell.error is not None:
        return cell
    try:
        folder = shared.fetch_folder(folders[request.path], store.home())
        own, disk_bytes = prepare.request_in(folder, request.cell, request.spec)
    except StorageError:
        raise
    except ClipperfError as exc:
        return prepare.unprepared(request.cell, request.spec, exc)
    return replace(cell, request=own, disk_bytes=disk_bytes)


def with_texts(job: Job) -> Job:
    """A job with the ids of which this machine makes texts; where it cannot, no cell can be."""
    spec = job.cells[0].request.spec
    try:
        return replace(job, text_ids=family_of(spec).text_ids(spec))
    except StorageError:
        raise
    except ClipperfError as exc:
        failed = [prepare.unprepared(cell.request.cell, spec, exc) for cell in job.cells]
        own = zip(job.cells, failed, strict=True)
        return replace(job, cells=tuple(c if c.error is not None else bad for c, bad in own))


def put(shared: Shared, place: Place, file: str, events: Sequence[Event]) -> Crossed:
    """Events in the shared place."""
    name = place.name(file)
    return Crossed(name, shared.put(name, json.dumps(to_json(list(events))).encode()))


def got(shared: Shared, crossed: Crossed) -> list[Event]:
    """Events from the shared place, checked."""
    values: Any = parse_json(shared.get(crossed.name, crossed.blob), crossed.name)
    return [from_json(Event, value, crossed.name) for value in values]
