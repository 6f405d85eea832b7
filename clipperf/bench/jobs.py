"""What is measured where: jobs, the scenarios that drive them, the launchers that run them.

A job is one comparison group, whole: its cells are compared with each other, so one machine
measures all of them. A scenario says how the cells are driven and what rows come of it. A
launcher takes jobs to machines. Both are found by name, see `clipperf.registry`:

- a scenario is a module in `bench.scenarios` with a ``SCENARIO``,
- a launcher is a module in `bench.launchers` with a ``LAUNCHER``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from clipperf.bench.cost import Settings
from clipperf.bench.plan import Group
from clipperf.errors import ClipperfError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.from_files import FileWork
from clipperf.nouns.memory import Foreseen
from clipperf.nouns.model import CLIP_IDS, ModelSpec, TextIds
from clipperf.nouns.result import Ended, Environment, Kind, Measurement
from clipperf.nouns.serving import Serving
from clipperf.registry import Registry
from clipperf.system.cluster.shared import Shared, SharedFolder


@dataclass(frozen=True)
class Event:
    """Progress: a pass of a cell starts, a row is done (`measurement`), or something to know.

    A "note" is told and kept in the result file, a "fact" is kept alone. `group` is the job that it
    is of, if it is of one; a job that is "finished" has no more to tell.
    """

    kind: Literal["started", "measured", "note", "fact", "finished"]
    text: str
    measurement: Measurement | None = None
    group: str = ""


OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Prepared:
    """One cell of a job: what opens its engine and its bytes on disk, or why there is nothing.

    `compared` is the absolute path of an artifact of the same model, which a server's vectors are
    held against. `foreseen` is what a line said of its peak, which a run is to check. `ended` says
    who ended the process that was to make it. `weights` tells the weights from others of those that
    load nothing else, where another machine has them.
    """

    request: EngineRequest
    disk_bytes: int | None = None
    error: str | None = None
    compared: str | None = None
    foreseen: Foreseen | None = None
    ended: Ended | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Job:
    """One comparison group, the baseline first; plain values, so that it crosses to machines.

    `files` are for those that read some, `serving` for those that offer inputs. `known` are
    rows that an earlier run of the same has left, which need not be measured again.
    """

    group: str
    scenario: str
    cells: tuple[Prepared, ...]
    settings: Settings
    text_ids: TextIds = CLIP_IDS
    files: FileWork | None = None
    serving: Serving | None = None
    known: tuple[Measurement, ...] = ()

    def row(self, cell: Prepared, kind: Kind, env: Environment) -> Measurement:
        """A row of one of its cells with nothing measured yet."""
        row = blank(cell.request, kind, env)
        return replace(row, group=self.group, disk_bytes=cell.disk_bytes)


@dataclass(frozen=True)
class Scenario:
    """How the cells of a job are driven.

    `measure(job, env, earlier, on_event)` hands every row to `on_event` as soon as it is there.
    All its cells are ready; what goes wrong with one is a row with the reason. `earlier` are the
    rows that this machine has measured in jobs before. `rows(groups)` is how many rows come of
    groups without failures, `kind` what kind they are.
    """

    name: str
    measure: Callable[[Job, Environment, Sequence[Measurement], OnEvent], None]
    rows: Callable[[Sequence[Group]], int]
    kind: Kind = "time"


class Machines(Protocol):
    """Where jobs run. `environments` are the machines known so far; there may come more."""

    @property
    def environments(self) -> Sequence[Environment]:
        """Each machine once; the first is there from the beginning."""
        ...

    def run(self, jobs: Iterable[Job], on_event: OnEvent) -> None:
        """Run all jobs, each on one machine, whose id is every row's `env_id`; see `run_job`.

        A job may be prepared when it is taken, so one is not taken long before it can run.
        """
        ...


@dataclass(frozen=True)
class Call:
    """A call of ``function(tell, *args)`` on another machine; all of it can be pickled.

    With `on_gpu` the machine has one to give.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    on_gpu: bool = False


OnEnd = Callable[[Call, Any, ClipperfError | None], None]
"""Has a call with what it returned, or its error."""


@runtime_checkable
class Away(Machines, Protocol):
    """Machines that do not share this one's store: what they measure is made on them, too.

    What crosses does so through `shared`; `known` are the folders of each model that were made
    there, by the model's id and their places.
    """

    shared: Shared
    known: dict[str, dict[str, SharedFolder]]

    def prepared(
        self, cells: Sequence[Cell], spec: ModelSpec, largest_batch: int, on_event: OnEvent
    ) -> Sequence[Prepared | ClipperfError]:
        """What opens each cell there, made where it was not before, or why it cannot be."""
        ...

    def call(self, task: Call, on_told: Callable[[Any], None] = lambda told: None) -> Any:
        """What a call returns on one of the machines, with nothing measured beside it.

        Raises:
            ClipperfError: its own error, or no machine is left.
        """
        ...

    def calls(self, tasks: Iterable[Call], on_event: OnEvent, on_end: OnEnd) -> None:
        """Do all calls, each alone on a machine; what they tell, texts, are stages."""
        ...


@dataclass(frozen=True)
class Launcher:
    """One way to machines; `open()` says which, and raises what speaks against it.

    `here` is whether this machine is the one that measures, which then must have the runtimes.
    """

    name: str
    open: Callable[[], AbstractContextManager[Machines]]
    here: bool = True


SCENARIOS: Registry[Scenario] = Registry("scenario", room="clipperf.bench.scenarios")
LAUNCHERS: Registry[Launcher] = Registry("launcher", room="clipperf.bench.launchers")


def row_a_cell(groups: Sequence[Group]) -> int:
    """The `rows` of scenarios that give one for each cell."""
    return sum(len(group.cells) for group in groups)


def run_job(
    job: Job, env: Environment, earlier: Sequence[Measurement], on_event: OnEvent
) -> list[Measurement]:
    """Run a job on this machine; returns its rows, each of which `on_event` has had before.

    A cell that could not be prepared is a row with the reason.

    Raises:
        UsageError: there is no such scenario here.
    """
    rows: list[Measurement] = []

    def tell(event: Event) -> None:
        if event.measurement is not None:
            rows.append(event.measurement)
        on_event(replace(event, group=job.group))

    scenario = SCENARIOS.get(job.scenario)
    for cell in job.cells:
        if cell.error is not None:
            row = blank(cell.request, scenario.kind, env)
            row = replace(row, status="failed", error=cell.error, group=job.group)
            row = replace(row, foreseen=cell.foreseen, ended=cell.ended)
            tell(Event("measured", f"{row.cell.label}: {cell.error}", row))
    ready = tuple(cell for cell in job.cells if cell.error is None)
    if ready:
        known = [row for row in job.known if row.env_id == env.id]
        scenario.measure(replace(job, cells=ready), env, (*earlier, *known), tell)
    on_event(Event("finished", job.group, group=job.group))
    return rows


def blank(request: EngineRequest, kind: Kind, env: Environment) -> Measurement:
    """A row with nothing measured yet."""
    return Measurement(
        cell=request.cell,
        kind=kind,
        status="ok",
        env_id=env.id,
        random_weights=request.spec.random_weights,
        endpoint=request.endpoint,
    )
