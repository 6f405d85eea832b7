"""A dataset embedded by the machines of a Ray cluster, each of which holds the tower.

Shards are shared out in short runs, and what comes of their items is brought home, where shards
are written as ever: a machine that is lost has written nothing, and what it had not brought home
is done by another. Ray Data is not used: it would do lost work again, too, but without end and
without a word of it, and with as many cores on each machine; see `docs/embedding.md`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from clipperf.embed import away
from clipperf.embed.away import Job, Opening, Warned
from clipperf.embed.dataset import Dataset
from clipperf.embed.keeping import Keeper, runs_of
from clipperf.embed.wishes import OnStage
from clipperf.system import gpus
from clipperf.system.cluster.losses import say_where
from clipperf.system.cluster.machines import Needs
from clipperf.system.cluster.running import Cluster
from clipperf.system.cluster.tasks import Done, OnLost, OnTold, Task

MOST_SHARDS = 8
"""Of a run: what a machine has begun of one, it brings home before it is given the next."""

RUNS = 3
"""Runs that each machine is to have of what is left: so all of them end at about one time."""


class Machines:
    """The machines of a cluster with a tower; see `run.Source`.

    Machines with a GPU run as many towers as they have declared GPUs where the tower runs on one;
    else each has one tower and all of its cores. `warn` has what each of them warns of, once.

    Raises:
        ClipperfError: the tower cannot be opened on the first of them.
    """

    def __init__(
        self,
        cluster: Cluster,
        opening: Opening,
        device: str,
        path: Path,
        on_stage: OnStage,
        warn: Callable[[str], None],
    ) -> None:
        self._cluster, self._opening = cluster, opening
        self._needs = Needs(cpus=1, gpus=int(device == gpus.CUDA))
        self._path = path.absolute()
        self._told, self._warn = on_stage, warn
        self._warned: set[str] = set()
        self.lost: list[str] = []
        task = self._task("the tower", away.describe, args=(opening,))
        self.facts = called(cluster, task, self._lost, self._hear)

    def make(self, data: Dataset, keeper: Keeper) -> None:
        """See `run.Source`.

        Raises:
            ClipperfError: what a machine raised, or none is left.
        """
        path, wishes, manifest = self._path, keeper.wishes, keeper.manifest
        job = Job(
            self._opening,
            path.relative_to(away.PACKAGE) if away.is_packaged(path) else path,
            wishes.wanted,
            manifest.data,
            manifest.plan,
            wishes.workers,
            wishes.normalize,
        )
        runs: dict[str, range] = {}

        def tasks() -> Iterator[Task]:
            for run in self._shared_out(keeper.missing):
                name = f"shards {run.start + 1} to {run.stop}"
                runs[name] = run
                yield self._task(name, away.make, late_args=partial(_left, job, run, keeper))

        def told(task: Task, outcomes: Any) -> None:
            if isinstance(outcomes, Warned):
                self._hear(task, outcomes)
                return
            for outcome in outcomes:
                # What Ray hands over lies in its store until nobody looks at it any more.
                keeper.take(dataclasses.replace(outcome, vectors=outcome.vectors.copy()))

        def lost(task: Task, text: str) -> None:
            self._lost(task, text)
            keeper.drop(keeper.left(runs[task.name]))

        def ended(done: Done) -> None:
            del runs[done.task.name]
            _raise_error(done)

        keeper.summary.lost = self.lost
        self._cluster.run(tasks(), told, ended, lost)

    def _shared_out(self, missing: Iterable[int]) -> Iterator[range]:
        """Runs of shards that follow each other: short ones, and shorter towards the end."""
        left = collections.deque(missing)
        while left:
            most = max(1, min(MOST_SHARDS, len(left) // (RUNS * self._processes())))
            run = next(runs_of([left[place] for place in range(min(most, len(left)))]))
            for _ in run:
                left.popleft()
            yield run

    def _processes(self) -> int:
        """How many run at one time on the machines that are there now."""
        nodes = self._cluster.nodes
        if not self._needs.gpus:
            return max(1, len(nodes))
        each = (min(node.declared.gpus, node.declared.cpus) for node in nodes)
        return max(1, sum(map(int, each)))

    def _hear(self, task: Task, warned: Warned) -> None:
        """Pass on what a machine warns of, where none has before."""
        node = self._cluster.node_of(task)
        for text in warned.warnings:
            if text not in self._warned:
                self._warned.add(text)
                self._warn(text if node is None else f"{node.name}: {text}")

    def _lost(self, task: Task, text: str) -> None:
        self.lost.append(f"{task.name}: {text}")
        self._told(self.lost[-1])

    def _task(self, name: str, function: Any, **more: Any) -> Task:
        whole = self._needs.gpus == 0
        return Task(name, function, needs=self._needs, alone=False, whole=whole, kept=True, **more)


def _left(job: Job, run: range, keeper: Keeper) -> tuple[Job, range]:
    """What a task does of its run: what was brought home before its machine was lost stays."""
    left = keeper.left(run)
    return job, range(left[0], run.stop) if left else range(0)


def called(
    cluster: Cluster, task: Task, on_lost: OnLost, on_told: OnTold = lambda task, told: None
) -> Any:
    """What a task returns; its error says where.

    Raises:
        ClipperfError: what the machine raised, or none is left.
    """
    done: list[Done] = []
    cluster.run([task], on_told, done.append, on_lost)
    _raise_error(done[0])
    return done[0].value


def _raise_error(done: Done) -> None:
    """Raise what a machine raised, which says where."""
    if done.error is None:
        return
    if done.node is not None:
        say_where(done.error, done.node)
    raise done.error
