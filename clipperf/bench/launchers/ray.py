"""The launcher "ray": the machines of a Ray cluster, one job alone on each.

All jobs run on machines of one kind (processor, GPU, versions), so that figures of one sweep can
stand beside each other: those with a GPU where there are some, else those of which there are most.
A job whose machine or process is lost is run again, on another machine where there is one; what it
had measured by then is dropped, but for memory rows. Artifacts are made on one machine and fetched
by the others.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipperf.bench import away
from clipperf.bench.away import Crossed, Made, Place, new_place, place_of
from clipperf.bench.away_scores import needs_gpu
from clipperf.bench.jobs import (
    SCENARIOS,
    Call,
    Event,
    Job,
    Launcher,
    Machines,
    OnEnd,
    OnEvent,
    Prepared,
    blank,
)
from clipperf.bench.launchers.local import overhead_fact
from clipperf.bench.retries import ended_of
from clipperf.engines import contract
from clipperf.errors import ClipperfError, LostError
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment, Measurement
from clipperf.system import store
from clipperf.system.cluster.joining import AUTO
from clipperf.system.cluster.machines import Needs, Node
from clipperf.system.cluster.owning import owned
from clipperf.system.cluster.running import Cluster, opened
from clipperf.system.cluster.seeing import check_seen
from clipperf.system.cluster.shared import Shared, SharedFolder
from clipperf.system.cluster.tasks import Done, Task
from clipperf.system.cluster.waiting import OnWait
from clipperf.system.terminal import say


@dataclasses.dataclass
class _Sent:
    """A job on its way: what it has told that counts once it has ended."""

    job: Job
    place: Place
    known: set[tuple[Cell, str]] = dataclasses.field(default_factory=set)


class Remote:
    """The machines of a cluster that are of one kind, and what was made on them."""

    def __init__(self, cluster: Cluster, shared: Shared, look: bool = True) -> None:
        self.cluster, self.shared = cluster, shared
        self.kind = kind_of(cluster.nodes)
        self._environments = {n.facts.environment.id: n.facts.environment for n in self.nodes}
        self._sent: dict[str, _Sent] = {}
        self._folders: dict[str, SharedFolder] = {}
        self.known: dict[str, dict[str, SharedFolder]] = {}
        self._made: dict[tuple[object, ...], Made] = {}
        self._memory: list[Measurement] = []
        if look:
            check_seen(cluster, self.nodes, shared)
        self._facts = tuple(self._look())
        self._overhead_is_known = False

    @property
    def nodes(self) -> list[Node]:
        """The nodes that measure."""
        return [node for node in self.cluster.nodes if node.kind == self.kind]

    @property
    def environments(self) -> Sequence[Environment]:
        """Each machine once; machines that are alike in all that counts are one."""
        for node in self.nodes:
            self._environments.setdefault(node.facts.environment.id, node.facts.environment)
        return list(self._environments.values())

    # --- what a sweep asks for -------------------------------------------------------------

    def call(self, task: Call, on_told: Callable[[Any], None] = lambda told: None) -> Any:
        """See `Away.call`."""
        return self.cluster.call(self._task(task), lambda task, told: on_told(told))

    def calls(self, tasks: Iterable[Call], on_event: OnEvent, on_end: OnEnd) -> None:
        """See `Away.calls`; a call whose machine is lost is done again, of which a note is told."""
        sent: dict[str, Call] = {}

        def handed() -> Iterator[Task]:
            for task in tasks:
                sent[task.name] = task
                yield self._task(task)

        def said(task: Task, text: str) -> None:
            on_event(Event("started", text, group=task.name))

        def done(done: Done) -> None:
            on_end(sent[done.task.name], done.value, done.error)

        def lost(task: Task, text: str) -> None:
            on_event(Event("note", text, group=task.name))

        self.cluster.run(handed(), said, done, lost)

    def prepared(
        self, cells: Sequence[Cell], spec: ModelSpec, largest_batch: int, on_event: OnEvent
    ) -> list[Prepared | ClipperfError]:
        """What opens each cell, made on one of the machines where it was not before."""
        keys = [_key(cell, spec, largest_batch) for cell in cells]
        missing = {
            key: cell for key, cell in zip(keys, cells, strict=True) if key not in self._made
        }
        new: dict[tuple[object, ...], Made] = {}
        if missing:
            known = self.known.setdefault(spec.id, {})

            def tell(text: str) -> None:
                on_event(Event("started", f"{spec.id}: {text}"))

            wanted, place = tuple(missing.values()), place_of(self.shared)
            args = (wanted, spec, largest_batch, place, tuple(known.values()))
            task = Call(f"artifacts of {spec.id}", away.make, args, needs_gpu(wanted))
            try:
                found, folders = self.call(task, tell)
            except LostError as exc:  # of this one alone
                found, folders = [Made(error=exc)] * len(missing), []
            known |= {folder.place: folder for folder in folders}
            new = dict(zip(missing, found, strict=True))
            # What was killed is tried again where it is asked for again.
            self._made |= {k: made for k, made in new.items() if ended_of(made.error) != "killed"}
            for made in found:
                if made.folder is not None and made.prepared is not None:
                    self._folders[str(made.prepared.request.path)] = made.folder
        all_made = {**self._made, **new}
        return [_of(all_made[key], cell) for key, cell in zip(keys, cells, strict=True)]

    def run(self, jobs: Iterable[Job], on_event: OnEvent) -> None:
        """Run the jobs, each on one machine alone, as many at once as there are machines."""

        def told(task: Task, what: Any) -> None:
            if isinstance(what, Event):
                on_event(what)
            else:
                self._bring(self._sent[task.name], what, on_event)

        def done(done: Done) -> None:
            sent = self._sent.pop(done.task.name)
            if done.error is not None:
                self._failed(sent.job, done.error, on_event)
            else:
                self._bring(sent, done.value, on_event)
            if done.node is not None and done.error is None:
                on_event(Event("fact", f"measured on {done.node.name}", group=sent.job.group))
            with contextlib.suppress(ClipperfError):
                self.shared.remove(sent.place.name())
            on_event(Event("finished", sent.job.group, group=sent.job.group))

        def lost(task: Task, text: str) -> None:
            on_event(Event("note", text, group=task.name))

        for fact in self._facts:
            on_event(Event("fact", fact))
        self._facts = ()
        self.cluster.run((self._job(job) for job in jobs), told, done, lost)

    # --- inside ----------------------------------------------------------------------------

    def _task(self, task: Call) -> Task:
        needs = Needs(gpus=int(task.on_gpu))
        return Task(
            task.name,
            task.function,
            task.args,
            needs,
            fits=lambda node: node.kind == self.kind,
            unfit="is a machine of another kind than those that measure",
        )

    def _job(self, job: Job) -> Task:
        """The task of a job; what was measured of its cells' memory need not be once more."""
        place = new_place(self.shared)
        self._sent[job.group] = _Sent(job, place)
        cells = {each.request.cell for each in job.cells}
        known = (*job.known, *(row for row in self._memory if row.cell in cells))
        paths = {each.request.path for each in job.cells if each.request.path is not None}
        for path in paths - self._folders.keys():  # made at home, as `profile` does
            self._folders[path] = away.share(self.shared, away.folder_of(path))
        folders = {path: self._folders[path] for path in paths}
        first, self._overhead_is_known = not self._overhead_is_known, True
        args = (dataclasses.replace(job, known=known), folders, place, first)
        return self._task(Call(job.group, measured, args, needs_gpu([*cells])))

    def _bring(self, sent: _Sent, told: tuple[Environment, Crossed], on_event: OnEvent) -> None:
        """Events of a job that have come home, and the machine that they are of."""
        env, crossed = told
        self._environments.setdefault(env.id, env)
        for event in away.got(self.shared, crossed):
            row = event.measurement
            if row is not None and row.kind == "memory" and row.status == "ok":
                if (row.cell, row.env_id) in sent.known:  # of a try that was lost
                    continue
                sent.known.add((row.cell, row.env_id))
                self._memory.append(row)
            on_event(event)

    def _failed(self, job: Job, error: ClipperfError, on_event: OnEvent) -> None:
        """Rows of a job that no machine has brought to its end; any other error ends all.

        Raises:
            ClipperfError: the error, where it is not one of this job alone.
        """
        if not isinstance(error, LostError):
            raise error
        for cell in job.cells:
            row = blank(cell.request, SCENARIOS.get(job.scenario).kind, self.environments[0])
            row = dataclasses.replace(
                row, status="failed", error=str(error), group=job.group, ended="killed"
            )
            on_event(Event("measured", f"{row.cell.label}: {error}", row, job.group))

    def _look(self) -> Iterator[str]:
        """What is worth a note of the machines."""
        others = [node.name for node in self.cluster.nodes if node.kind != self.kind]
        if others:
            yield f"left out, as they are machines of another kind: {', '.join(others)}"
        machines = collections.Counter(node.facts.machine for node in self.nodes)
        if len({node.machine for node in self.nodes}) > len(machines):
            yield (
                "Ray nodes of one machine were taken for machines of their own: what was measured "
                "on them at once was not alone"
            )


def measured(tell: Any, job: Job, folders: Any, place: Place, first: bool) -> Any:
    """`away.measure`; the first one looks at what measuring costs, too."""
    facts = [overhead_fact(away.here())] if first else []
    return away.measure(tell, job, folders, place, facts)


def kind_of(nodes: Sequence[Node]) -> tuple[object, ...]:
    """The kind of machine that is measured on."""
    with_gpu = [node for node in nodes if node.facts.environment.gpu is not None]
    counted = collections.Counter(node.kind for node in with_gpu or nodes)
    return counted.most_common(1)[0][0]


def _key(cell: Cell, spec: ModelSpec, largest_batch: int) -> tuple[object, ...]:
    """Equal for cells that load the same; the batch says nothing where nothing is loaded."""
    made = contract.get(cell.runtime).artifact is not None
    sizes = (cell.batch, largest_batch, cell.tokens) if made else ()
    return (spec, cell.side, cell.runtime, cell.precision, cell.device, cell.input, *sizes)


def _of(made: Made, cell: Cell) -> Prepared | ClipperfError:
    if made.prepared is None:
        assert made.error is not None
        return made.error
    request = dataclasses.replace(made.prepared.request, cell=cell)
    return dataclasses.replace(made.prepared, request=request)


@contextlib.contextmanager
def joined(
    address: str = AUTO,
    url: str | Path | None = None,
    look: bool = True,
    on_wait: OnWait = say,
    kept: str = "",
) -> Iterator[Remote]:
    """The machines of the cluster at an address; `url` is where things cross.

    Without `look` nothing is written there to see whether all machines see it. For `on_wait` and
    `kept` see `opened`.

    Raises:
        ClipperfError: the cluster cannot be joined, or does not see the shared place.
    """
    where = str(url or store.home() / "ray")
    with (
        opened(address, on_wait, kept) as cluster,
        owned(where) if look else contextlib.nullcontext(Shared(where)) as shared,
        contextlib.closing(cluster),  # before what its tasks write is removed
    ):
        yield Remote(cluster, shared, look)


def launcher(address: str = AUTO, url: str | Path | None = None) -> Launcher:
    """The launcher to a cluster."""
    return Launcher("ray", lambda: joined(address, url), here=False)


@contextlib.contextmanager
def _usual() -> Iterator[Machines]:
    with joined() as remote:
        yield remote


LAUNCHER = Launcher("ray", _usual, here=False)
