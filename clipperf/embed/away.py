"""Items embedded on another machine: what a process there does, which keeps what it has opened.

Each function is a task's that is `kept` (`system.cluster.tasks`); the first argument tells whoever
waits at home, where shards are written. The dataset is read here, from the same path.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from clipperf.embed import dataset as datasets
from clipperf.embed.dataset import Dataset
from clipperf.embed.items import Item, Wanted
from clipperf.embed.manifest import Data, Facts, Plan, facts_of
from clipperf.embed.parts import Outcome, embedded, parts_of, size_of
from clipperf.errors import ClusterError, UsageError
from clipperf.nouns.variant import Side
from clipperf.serve.bulk import Tower, open_chosen
from clipperf.serve.towers import Choice
from clipperf.system import store, temporaries
from clipperf.system.cluster.remote import Tell, at_end
from clipperf.system.cluster.shared import SharedFolder, shared_at
from clipperf.system.files import translated
from clipperf.system.housekeeping.in_use import using
from clipperf.text import number_of, shown

TELL_S = 0.25
"""How often a machine tells what came of items, at most, but for ends of shards."""

PACKAGE = Path(__file__).parent.parent
LISTING = "embed-listing"


@dataclass(frozen=True)
class Opening:
    """A tower and how it is opened: `choice` but for the folder, which lies at `url`."""

    folder: SharedFolder
    url: str
    choice: Choice
    side: Side
    preprocess: str | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Job:
    """What is embedded of which dataset, all but the shards; `data` says what is at home."""

    opening: Opening
    path: Path
    wanted: Wanted
    data: Data
    plan: Plan
    workers: int | None
    normalize: bool


@dataclass
class _Open:
    """What this process holds: it is one command's, which opens one tower and one dataset."""

    tower: Tower | None = None
    data: Dataset | None = None


_open = _Open()


@dataclass(frozen=True)
class Warned:
    """What a user should know of a tower that was opened on a machine."""

    warnings: tuple[str, ...]


def describe(tell: Tell, opening: Opening) -> Facts:
    """Open the tower, and say what vectors depend on of it; tells its warnings.

    Raises:
        ClipperfError: it cannot be opened here.
    """
    with using():
        return facts_of(_opened(tell, opening))


def make(tell: Tell, job: Job, run: range) -> None:
    """Embed the items of a run of shards, and tell what comes of them, some parts at a time.

    Where it opens the tower, it tells its warnings first.

    Raises:
        ClusterError: the dataset is not here, or is not what it is at home.
        EngineError: the tower fails.
    """
    if not run:
        return
    with using():
        tower, data = _opened(tell, job.opening), _dataset(job)
        ended = threading.Event()
        parts = parts_of(data, job.plan, job.data.items, run, size_of(tower), ended)
        ready = embedded(tower, parts, job.workers, ended.set, job.normalize)
        with contextlib.closing(parts), contextlib.closing(ready), contextlib.ExitStack() as end:
            end.callback(ended.set)
            for some in _gathered(ready):
                tell(some)


def _gathered(ready: Iterator[Outcome]) -> Iterator[tuple[Outcome, ...]]:
    """What came of parts, together where it comes fast."""
    own: list[Outcome] = []
    told_s = time.monotonic()
    for outcome in ready:
        own.append(outcome)
        if outcome.last or time.monotonic() - told_s >= TELL_S:
            yield tuple(own)
            own, told_s = [], time.monotonic()


def _opened(tell: Tell, opening: Opening) -> Tower:
    """The tower, which is open already where an earlier task has opened it."""
    if _open.tower is None:
        _open.tower = _tower(opening)
        if _open.tower.warnings:
            own = f"{store.home()}{os.sep}"  # elsewhere the same has another name
            tell(Warned(tuple(text.replace(own, "") for text in _open.tower.warnings)))
    return _open.tower


def _tower(opening: Opening) -> Tower:
    folder = shared_at(opening.url).fetch_folder(opening.folder, store.home())
    choice = replace(opening.choice, folder=folder)
    tower = open_chosen(folder, [choice], opening.side, opening.preprocess)
    if opening.batch is not None:
        tower.batch = opening.batch
    return tower


def _dataset(job: Job) -> Dataset:
    """The dataset, listed once, whose items go on from where the last run of shards ended."""
    if _open.data is not None:
        return _open.data
    path, host = PACKAGE / job.path, platform.node()
    fix = "put it where all machines see it under one path"
    scratch = contextlib.ExitStack()
    place = store.home() / "cache" / LISTING
    with translated(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        listing = scratch.enter_context(temporaries.made(place, folder=True))
        at_end(scratch.close)
        try:
            data = datasets.opened(path, job.wanted, listing)
        except UsageError as exc:
            raise ClusterError(f"{host} does not have the dataset: {exc}: {fix}") from exc
    datasets.check_reachable(data, job.wanted)
    if not is_packaged(path) and data.digest != job.data.digest:
        there, here = (
            f"{number_of(each.files, 'file')} of {each.size_bytes:,} bytes"
            for each in (data, job.data)
        )
        raise ClusterError(
            f"{shown(path)} on {host} is not what it is here: there {there}, here {here}, by "
            f"names, sizes and times of change: {fix}, or copy it with rsync -t"
        )
    _open.data = replace(data, items=Forward(data).items)
    return _open.data


def is_packaged(path: Path) -> bool:
    """Whether a dataset is one that comes with clipperf, wherever that is installed."""
    return path.is_relative_to(PACKAGE)


class Forward:
    """The items of a dataset whose runs of shards mostly come in order: what was passed stays so.

    Where names can only be counted from the start, a machine counts each of them once; elsewhere
    it reads nothing of what others embed.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._counts = dataset.count is None
        self._items: Iterator[Item] | None = None
        self._place = 0

    def items(self, start: int) -> Iterator[Item]:
        """As `Dataset.items`; one at a time is read."""
        passed = start > self._place and not self._counts
        if self._items is None or start < self._place or passed:
            self._items, self._place = self._dataset.items(start), start
        while self._place < start and next(self._items, None) is not None:
            self._place += 1
        for item in self._items:
            self._place += 1
            yield item
