"""A dataset to vectors: shard by shard, from where an earlier run of the same command ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from clipperf.embed import dataset as datasets
from clipperf.embed.begun import LISTING, begin, begun_in, folder
from clipperf.embed.dataset import Dataset
from clipperf.embed.formats import FORMATS, check_format
from clipperf.embed.keeping import Keeper, runs_of
from clipperf.embed.manifest import Facts, Plan, check_same, facts_of, manifest_of
from clipperf.embed.parts import embedded, parts_of, size_of
from clipperf.embed.wishes import OnItems, OnStage, Summary, Wishes
from clipperf.errors import StorageError, UsageError
from clipperf.serve.bulk import Tower
from clipperf.system import temporaries
from clipperf.system.files import locked, translated
from clipperf.system.targets import kind_of, real
from clipperf.text import shown


class Source(Protocol):
    """Where items are embedded: by a tower that is open here, or on the machines of a cluster."""

    @property
    def facts(self) -> Facts:
        """What the vectors depend on of the tower."""

    def make(self, data: Dataset, keeper: Keeper) -> None:
        """Embed the items of all shards that are missing, and hand on what comes of them."""


class Here:
    """A tower that is open in this process."""

    def __init__(self, tower: Tower) -> None:
        self._tower = tower
        self.facts = facts_of(tower)

    def make(self, data: Dataset, keeper: Keeper) -> None:
        """See `Source`."""
        for run in runs_of(keeper.missing):
            self._make(run, data, keeper)

    def _make(self, run: range, data: Dataset, keeper: Keeper) -> None:
        """Make consecutive shards, over whose ends threads decode."""
        plan, items = keeper.manifest.plan, keeper.manifest.data.items
        ended, wishes = threading.Event(), keeper.wishes
        parts = parts_of(data, plan, items, run, size_of(self._tower), ended)
        ready = embedded(self._tower, parts, wishes.workers, ended.set, wishes.normalize)
        with contextlib.closing(parts), contextlib.closing(ready), contextlib.ExitStack() as end:
            end.callback(ended.set)  # whichever end it is: by a good one all is read
            for outcome in ready:
                keeper.take(outcome)


def embed(
    path: Path,
    out: Path,
    open_tower: Callable[[], Tower],
    wishes: Wishes,
    on_stage: OnStage = lambda stage: None,
    on_items: OnItems = lambda text, done, total: None,
) -> Summary:
    """`embed_by` a tower that is opened here."""

    @contextlib.contextmanager
    def here() -> Iterator[Source]:
        with open_tower() as tower:
            yield Here(tower)

    return embed_by(path, out, here, wishes, on_stage, on_items)


def embed_by(
    path: Path,
    out: Path,
    opened: Callable[[], contextlib.AbstractContextManager[Source]],
    wishes: Wishes,
    on_stage: OnStage = lambda stage: None,
    on_items: OnItems = lambda text, done, total: None,
) -> Summary:
    """Embed what lies at `path` into shards in `out`, those that are not there yet.

    The dataset is looked at before `opened` is called.

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
        source = held.enter_context(opened())
        with translated(out):
            items = begun.data.items if begun is not None else datasets.survey(data, scratch)
        plan = Plan(
            *(wishes.format, wishes.dtype, wishes.shard_items),
            -(-items // wishes.shard_items),
        )
        manifest = manifest_of(source.facts, data, items, wishes.wanted, plan, wishes.normalize)
        if begun is not None:
            check_same(out, begun, manifest)
        else:
            begin(out, manifest)
        with Keeper(out, begun or manifest, wishes, on_stage, on_items) as keeper:
            if keeper.missing:
                source.make(data, keeper)
        summary = keeper.summary
        if summary.made:
            with translated(out):
                datasets.check_unchanged(data, path, wishes.wanted, scratch / "again")
        return summary
