"""Items to batches and back: parts of shards, each with what came of its items."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from clipperf.embed.dataset import Dataset
from clipperf.embed.items import Item
from clipperf.embed.manifest import Plan
from clipperf.embed.urls import fetched
from clipperf.errors import UsageError
from clipperf.serve.bulk import Tower
from clipperf.serve.texts import WINDOW
from clipperf.text import shown

MOST_CHARACTERS = 1 << 24
"""Of texts that are embedded together."""

NO_LENGTH = "its vector has no length that it could be divided by for --normalize"


@dataclass(frozen=True)
class Part:
    """Some items of a shard that are embedded together; the `last` ones of it or not."""

    shard: int
    items: list[Item]
    last: bool

    @property
    def good(self) -> list[Item]:
        """The items that can be given to a tower."""
        return [item for item in self.items if item.given is not None]


@dataclass(frozen=True)
class Outcome:
    """What came of a part of `items`: ids with vectors [ids, embed_dim], corrupt ones with reasons.

    `order` are all of the ids. The inputs themselves are not kept: those of a shard may be large.
    """

    shard: int
    items: int
    last: bool
    ids: list[str]
    vectors: np.ndarray
    corrupt: list[tuple[str, str]]
    order: list[str]
    clipped: int = 0


def parts_of(
    dataset: Dataset,
    plan: Plan,
    items: int,
    run: range,
    size: int,
    ended: threading.Event | None = None,
) -> Generator[Part, None, None]:
    """The items of a `run` of shards in parts of `size`; no part is of two shards.

    So what shares a batch does not depend on where an earlier run ended. Once the run has `ended`,
    nobody waits for what is still fetched.

    Raises:
        UsageError: the dataset has fewer items than it had.
    """
    first, last = plan.span(run.start, items).start, plan.span(run.stop - 1, items).stop
    wanted = islice(dataset.items(first), last - first)  # nothing is fetched beyond the run
    with closing(fetched(wanted, ended)) as source:
        for shard in run:
            left = len(plan.span(shard, items))
            while left:
                taken = _taken(source, min(size, left))
                left -= len(taken)
                if not taken:
                    raise UsageError(
                        f"{shown(dataset.path)} lost items while it was read: begin again, with "
                        f"another --out"
                    )
                yield Part(shard, taken, not left)


def _taken(source: Iterator[Item], most: int) -> list[Item]:
    """The next items; fewer where they are long texts."""
    found: list[Item] = []
    characters = 0
    for item in source:
        found.append(item)
        characters += len(item.given) if isinstance(item.given, str) else 0
        if len(found) == most or characters > MOST_CHARACTERS:
            break
    return found


def size_of(tower: Tower) -> int:
    """How many items are embedded together: a batch of images, texts that are sorted by length."""
    return tower.batch if tower.side == "image" else WINDOW


def embedded(
    tower: Tower,
    parts: Iterator[Part],
    workers: int | None,
    on_end: Callable[[], None] = lambda: None,
    unit: bool = False,
) -> Generator[Outcome, None, None]:
    """What comes of parts, in their order; raises as the tower's engine.

    `on_end` is called before threads are waited for that make pixels. Where vectors are to become
    `unit` ones, those that cannot are none.
    """
    if tower.side == "image":
        return _images(tower, parts, workers, on_end, unit)
    return _texts(tower, parts, unit)


def _images(
    tower: Tower, parts: Iterator[Part], workers: int | None, on_end: Callable[[], None], unit: bool
) -> Generator[Outcome, None, None]:
    given: deque[Part] = deque()

    def inputs() -> Iterator[Sequence[Any]]:
        for part in parts:
            given.append(part)
            yield [item.given for item in part.good]

    for found in tower.images(inputs(), workers, on_end):
        yield _outcome(given.popleft(), found.rows, found.unreadable, len(found.clipped), unit)


def _texts(tower: Tower, parts: Iterator[Part], unit: bool) -> Generator[Outcome, None, None]:
    for part in parts:
        rows, refused = tower.texts([str(item.given) for item in part.good])
        yield _outcome(part, rows, refused, 0, unit)


def _outcome(
    part: Part, rows: np.ndarray, bad: dict[int, str], clipped: int, unit: bool
) -> Outcome:
    if unit:
        lengths = np.linalg.norm(rows, axis=1)
        none = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
        bad = {**dict.fromkeys(none.tolist(), NO_LENGTH), **bad}
    ids: list[str] = []
    corrupt: list[tuple[str, str]] = []
    place = 0  # among the good ones
    for item in part.items:
        reason = item.problem if item.given is None else bad.get(place)
        place += item.given is not None
        if reason is None:
            ids.append(item.id)
        else:
            corrupt.append((item.id, reason))
    vectors = rows[[i for i in range(len(rows)) if i not in bad]] if bad else rows
    order = [item.id for item in part.items]
    return Outcome(part.shard, len(order), part.last, ids, vectors, corrupt, order, clipped)
