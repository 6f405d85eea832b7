"""A dataset to vectors: shard by shard, from where an earlier run of the same command ended."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from clipperf.embed import dataset as datasets
from clipperf.embed.begun import LISTING, begin, begun_in, folder
from clipperf.embed.dataset import Dataset
from clipperf.embed.formats import FORMATS, check_format
from clipperf.embed.items import Wanted
from clipperf.embed.manifest import (
    Manifest,
    Plan,
    check_same,
    manifest_of,
)
from clipperf.embed.parts import Outcome, embedded, parts_of, size_of
from clipperf.embed.shards import Made, Record, corrupt_in, record_in, write_shard
from clipperf.errors import CorruptError, StorageError, UsageError
from clipperf.serve.arrays import finished
from clipperf.serve.bulk import Tower
from clipperf.system import temporaries
from clipperf.system.files import locked, translated
from clipperf.system.targets import kind_of, real
from clipperf.text import number_of, one_line, shown

NAMED = 5
"""Corrupt items that a summary names."""

OnStage = Callable[[str], None]
OnItems = Callable[[str, int, int], None]
"""Is told what is done, of how many items, of how many."""


@dataclass(frozen=True)
class Limit:
    """How many items may be corrupt: a number, or a share of those that were tried."""

    number: int | None = None
    share: float | None = None

    def passed(self, corrupt: int, items: int) -> bool:
        """Whether more are."""
        if self.number is not None:
            return corrupt > self.number
        return self.share is not None and corrupt > self.share * items


@dataclass(frozen=True)
class Wishes:
    """What is wanted of a run; see `docs/embedding.md`."""

    wanted: Wanted = field(default_factory=Wanted)
    format: str = "npy"
    dtype: str = "float32"
    shard_items: int = 10_000
    normalize: bool = False
    workers: int | None = None
    limit: Limit = field(default_factory=Limit)
    retry_corrupt: bool = False
    verify: bool = False


@dataclass
class Summary:
    """What is in a folder of vectors; `made` shards and `tried` items in `seconds` of this run.

    `named` are the first corrupt items and why they are.
    """

    folder: Path
    manifest: Manifest
    vectors: int = 0
    corrupt: int = 0
    clipped: int = 0
    shards: int = 0
    made: int = 0
    tried: int = 0
    seconds: float = 0.0
    named: list[tuple[str, str]] = field(default_factory=list)

    def add(self, number: int, record: Record) -> None:
        """A shard that is there."""
        self.shards += 1
        self.vectors += record.rows
        self.corrupt += record.corrupt
        self.clipped += record.clipped
        if record.corrupt and len(self.named) < NAMED:
            self.named += islice(corrupt_in(self.folder, number), NAMED - len(self.named))


def embed(
    path: Path,
    out: Path,
    open_tower: Callable[[], Tower],
    wishes: Wishes,
    on_stage: OnStage = lambda stage: None,
    on_items: OnItems = lambda text, done, total: None,
) -> Summary:
    """Embed what lies at `path` into shards in `out`, those that are not there yet.

    The dataset is looked at before `open_tower` is called.

    Raises:
        UsageError: there is no dataset, ids are there twice, or `out` holds something else or was
            begun with something else.
        StorageError: another command writes there, or the disk is full.
        CorruptError: more items are corrupt than the limit allows.
        EngineError: the tower fails.
        MissingDependencyError: the dataset or the format needs a package that is not installed.
    """
    form = FORMATS.get(wishes.format)
    if form is None:
        raise UsageError(f"no format {wishes.format!r}: choose {', '.join(FORMATS)}")
    check_format(form)
    if kind_of(path) == "nothing":
        raise UsageError(f"{shown(path)}: there is no such file or folder")
    if real(out).is_relative_to(real(path)):
        raise UsageError(f"--out {shown(out)} lies in the dataset: choose another folder")

    def refuse() -> None:
        raise StorageError(f"another command is writing {shown(out)}: wait for it, or end it")

    with locked(out, 0.0, refuse), folder(out), contextlib.ExitStack() as held:
        begun = begun_in(out)
        with translated(out):
            scratch = held.enter_context(temporaries.made(out / LISTING, folder=True))
        on_stage(f"reading {shown(path)}")
        with translated(out):
            data = datasets.opened(path, wishes.wanted, scratch)
            datasets.check_reachable(data, wishes.wanted)
        tower = held.enter_context(open_tower())
        with translated(out):
            items = begun.data.items if begun is not None else datasets.survey(data, scratch)
        plan = Plan(
            *(wishes.format, wishes.dtype, wishes.shard_items),
            -(-items // wishes.shard_items),
        )
        manifest = manifest_of(tower, data, items, wishes.wanted, plan, wishes.normalize)
        if begun is not None:
            check_same(out, begun, manifest)
        else:
            begin(out, manifest)
        summary = _Run(out, begun or manifest, data, tower, wishes, on_stage, on_items).all()
        if summary.made:
            with translated(out):
                datasets.check_unchanged(data, path, wishes.wanted, scratch / "again")
        return summary


class _Run:
    """One run, from the shards that are there to all of them."""

    def __init__(
        self,
        out: Path,
        manifest: Manifest,
        data: Dataset,
        tower: Tower,
        wishes: Wishes,
        on_stage: OnStage,
        on_items: OnItems,
    ) -> None:
        self._out, self._manifest, self._data = out, manifest, data
        self._tower, self._wishes = tower, wishes
        self._on_stage, self._on_items = on_stage, on_items
        self._summary = Summary(out, manifest)
        self._again: dict[int, Record] = {}
        self._done = 0
        # Of shards that are not written yet, too.
        self._corrupt = 0
        self._last_corrupt = ""

    def all(self) -> Summary:
        """Make what is missing."""
        missing = self._missing()
        if not missing:
            self._check_limit(at_end=True)
        started = time.monotonic()
        with ThreadPoolExecutor(1, thread_name_prefix="clipperf-shard") as writer:
            for run in _runs(missing):
                self._make(run, writer, started)
        self._summary.seconds = time.monotonic() - started
        return self._summary

    def _span(self, number: int) -> range:
        return self._manifest.plan.span(number, self._manifest.data.items)

    def _missing(self) -> list[int]:
        missing, summary = [], self._summary
        for number in range(self._manifest.plan.shards):
            plan, span = self._manifest.plan, self._span(number)
            record = record_in(self._out, number, plan, span, self._wishes.verify)
            if record is None:
                missing.append(number)
            elif record.corrupt and self._wishes.retry_corrupt:
                self._again[number] = record
                missing.append(number)
            else:
                summary.add(number, record)
                self._done += record.items
        self._corrupt = summary.corrupt
        for id_, reason in summary.named[-1:]:
            self._last_corrupt = one_line(f"{id_}: {reason}")
        if summary.shards:
            all_ = number_of(self._manifest.plan.shards, "shard")
            self._on_stage(f"{summary.shards} of {all_} there already")
        return missing

    def _make(self, run: range, writer: ThreadPoolExecutor, started: float) -> None:
        """Make consecutive shards: one is written while the next is embedded."""
        plan, items = self._manifest.plan, self._manifest.data.items
        ended = threading.Event()
        parts = parts_of(self._data, plan, items, run, size_of(self._tower), ended)
        wishes = self._wishes
        ready = embedded(self._tower, parts, wishes.workers, ended.set, wishes.normalize)
        own: list[Outcome] = []
        writing: tuple[int, Future[Record]] | None = None
        with contextlib.closing(parts), contextlib.closing(ready), contextlib.ExitStack() as end:
            end.callback(ended.set)  # whichever end it is: by a good one all is read
            for outcome in ready:
                own.append(outcome)
                self._count(outcome, started)
                if not outcome.last:
                    continue
                self._check_limit(at_end=True)
                self._written(writing)
                number = outcome.shard
                writing = number, writer.submit(self._write, number, own)
                own = []
        self._written(writing)

    def _count(self, outcome: Outcome, started: float) -> None:
        self._done += outcome.items
        self._summary.tried += outcome.items
        self._corrupt += len(outcome.corrupt)
        for id_, reason in outcome.corrupt[-1:]:
            self._last_corrupt = one_line(f"{id_}: {reason}")
        self._check_limit(at_end=False)
        rate = self._summary.tried / max(1e-9, time.monotonic() - started)
        said = f"embedding, {rate:.0f}/s" + (f", {self._corrupt} corrupt" if self._corrupt else "")
        self._on_items(said, self._done, self._manifest.data.items)

    def _check_limit(self, at_end: bool) -> None:
        """Shares are looked at where a shard ends: the first items may well be corrupt."""
        limit = self._wishes.limit
        if (at_end or limit.number is not None) and limit.passed(self._corrupt, self._done):
            raise CorruptError(
                f"corrupt: {self._corrupt} of {number_of(self._done, 'item')}, more than "
                f"--max-corrupt allows; the shards before are there. The last one: "
                f"{self._last_corrupt}"
            )

    def _write(self, number: int, own: list[Outcome]) -> Record:
        wishes = self._wishes
        rows = np.concatenate([outcome.vectors for outcome in own])
        vectors = finished(rows, self._manifest.dimension, wishes.normalize)
        with np.errstate(over="ignore"):
            vectors = vectors.astype(wishes.dtype, copy=False)
        if not np.isfinite(vectors).all():
            raise UsageError(
                f"--dtype {wishes.dtype} has no room for these vectors: choose float32, or add "
                f"--normalize, with another --out"
            )
        made = Made(
            [id_ for outcome in own for id_ in outcome.ids],
            vectors,
            [each for outcome in own for each in outcome.corrupt],
            sum(outcome.clipped for outcome in own),
        )
        before = self._again.get(number)
        if before is not None:
            made = made.with_those_of(
                self._out,
                number,
                self._manifest.plan,
                [id_ for outcome in own for id_ in outcome.order],
            )
            if len(made.ids) <= before.rows:  # nothing came of it
                return before
        return write_shard(self._out, number, self._manifest.plan, self._span(number), made)

    def _written(self, writing: tuple[int, Future[Record]] | None) -> None:
        """Wait for a shard that is being written, and count it."""
        if writing is None:
            return
        number, task = writing
        record = task.result()
        self._summary.add(number, record)
        self._summary.made += 1
        corrupt = f", {record.corrupt} corrupt" if record.corrupt else ""
        self._on_stage(
            f"shard {number + 1} of {self._manifest.plan.shards}: "
            f"{number_of(record.rows, 'vector')}{corrupt}"
        )


def _runs(numbers: list[int]) -> Iterator[range]:
    """Ascending numbers as ranges of those that follow each other."""
    start = previous = None
    for number in numbers:
        if start is None or previous is None:
            start = number
        elif number != previous + 1:
            yield range(start, previous + 1)
            start = number
        previous = number
    if start is not None and previous is not None:
        yield range(start, previous + 1)
