"""What came of items is kept until its shard is whole, then written: each shard once, in any order.

Wherever items are embedded, it is here that they are counted and shards are written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from clipperf.embed.manifest import Manifest
from clipperf.embed.parts import Outcome
from clipperf.embed.shards import Made, Record, corrupt_in, record_in, write_shard
from clipperf.embed.wishes import OnItems, OnStage, Summary, Wishes
from clipperf.errors import CorruptError, UsageError
from clipperf.serve.arrays import finished
from clipperf.text import number_of, one_line

NAMED = 5
"""Corrupt items that a summary names."""


class Keeper:
    """The shards of a folder: those that are there, and those that are being made.

    `missing` are the numbers of the latter, in order. One shard is written while items of the next
    ones come. Leave its ``with`` block to have the last one written.
    """

    def __init__(
        self, out: Path, manifest: Manifest, wishes: Wishes, on_stage: OnStage, on_items: OnItems
    ) -> None:
        self._out, self.manifest, self.wishes = out, manifest, wishes
        self.on_stage, self._on_items = on_stage, on_items
        self.summary = Summary(out, manifest)
        self._again: dict[int, Record] = {}
        self._own: dict[int, list[Outcome]] = {}
        self._flawed: list[int] = []
        self._begun: set[int] = set()
        self._writing: tuple[int, Future[Record]] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="clipperf-shard")
        self._done = 0
        # Of shards that are not written yet, too.
        self._corrupt = 0
        self._last_corrupt = ""
        self.missing = self._missing()
        if not self.missing:
            self._check_limit(at_end=True)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with self._writer:
            if kind is None:
                self._written()
                self.summary.named = self._named()
        self.summary.seconds = time.monotonic() - self._started

    def take(self, outcome: Outcome) -> None:
        """What came of a part of a shard; parts of a shard come in their order.

        Raises:
            CorruptError: more items are corrupt than the limit allows.
            StorageError: the shard before cannot be written.
        """
        number = outcome.shard
        own = self._own.setdefault(number, [])
        own.append(outcome)
        self._count(outcome)
        if not outcome.last:
            return
        self._check_limit(at_end=True)
        self._written()
        self._begun.add(number)
        self._writing = number, self._writer.submit(self._write, number, self._own.pop(number))

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget what came of shards that are not whole: it will come once more, from the start."""
        for number in numbers:
            for outcome in self._own.pop(number, []):
                self._done -= outcome.items
                self.summary.tried -= outcome.items
                self._corrupt -= len(outcome.corrupt)

    def left(self, numbers: Sequence[int]) -> list[int]:
        """Those of these shards of which not all has come."""
        return [number for number in numbers if number not in self._begun]

    def _span(self, number: int) -> range:
        return self.manifest.plan.span(number, self.manifest.data.items)

    def _missing(self) -> list[int]:
        missing, summary = [], self.summary
        for number in range(self.manifest.plan.shards):
            plan, span = self.manifest.plan, self._span(number)
            record = record_in(self._out, number, plan, span, self.wishes.verify)
            if record is None:
                missing.append(number)
            elif record.corrupt and self.wishes.retry_corrupt:
                self._again[number] = record
                missing.append(number)
            else:
                self._add(number, record)
                self._done += record.items
        self._corrupt = summary.corrupt
        summary.named = self._named()
        for id_, reason in summary.named[-1:]:
            self._last_corrupt = one_line(f"{id_}: {reason}")
        if summary.shards:
            all_ = number_of(self.manifest.plan.shards, "shard")
            self.on_stage(f"{summary.shards} of {all_} there already")
        return missing

    def _add(self, number: int, record: Record) -> None:
        self.summary.add(record)
        if record.corrupt:
            self._flawed.append(number)

    def _named(self) -> list[tuple[str, str]]:
        """The first corrupt items, in the dataset's order."""
        lists = (corrupt_in(self._out, number) for number in sorted(self._flawed))
        return list(islice(chain.from_iterable(lists), NAMED))

    def _count(self, outcome: Outcome) -> None:
        self._done += outcome.items
        self.summary.tried += outcome.items
        self._corrupt += len(outcome.corrupt)
        for id_, reason in outcome.corrupt[-1:]:
            self._last_corrupt = one_line(f"{id_}: {reason}")
        self._check_limit(at_end=False)
        rate = self.summary.tried / max(1e-9, time.monotonic() - self._started)
        said = f"embedding, {rate:.0f}/s" + (f", {self._corrupt} corrupt" if self._corrupt else "")
        self._on_items(said, self._done, self.manifest.data.items)

    def _check_limit(self, at_end: bool) -> None:
        """Shares are looked at where a shard ends: the first items may well be corrupt."""
        limit = self.wishes.limit
        if (at_end or limit.number is not None) and limit.passed(self._corrupt, self._done):
            raise CorruptError(
                f"corrupt: {self._corrupt} of {number_of(self._done, 'item')}, more than "
                f"--max-corrupt allows; the shards before are there. The last one: "
                f"{self._last_corrupt}"
            )

    def _write(self, number: int, own: list[Outcome]) -> Record:
        wishes = self.wishes
        rows = np.concatenate([outcome.vectors for outcome in own])
        vectors = finished(rows, self.manifest.dimension, wishes.normalize)
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
                self.manifest.plan,
                [id_ for outcome in own for id_ in outcome.order],
            )
            if len(made.ids) <= before.rows:  # nothing came of it
                return before
        return write_shard(self._out, number, self.manifest.plan, self._span(number), made)

    def _written(self) -> None:
        """Wait for a shard that is being written, and count it."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        number, task = writing
        record = task.result()
        self._add(number, record)
        self.summary.made += 1
        corrupt = f", {record.corrupt} corrupt" if record.corrupt else ""
        self.on_stage(
            f"shard {number + 1} of {self.manifest.plan.shards}: "
            f"{number_of(record.rows, 'vector')}{corrupt}"
        )


def runs_of(numbers: list[int]) -> Iterator[range]:
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
