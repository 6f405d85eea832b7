"""`clipperf profile`: prepare jobs, have them measured, record each row as soon as it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from clipperf.bench import prepare
from clipperf.bench.best import Choice, best_for
from clipperf.bench.cost import UNLIMITED, Limits, Settings
from clipperf.bench.jobs import LAUNCHERS, SCENARIOS, Event, Job, Launcher, OnEvent, Prepared
from clipperf.bench.largest import check_limits, foreseen
from clipperf.bench.plan import Group, plan
from clipperf.engines import contract
from clipperf.errors import ClipperfError, UsageError
from clipperf.models.family import family_of
from clipperf.nouns.cell import CLOSED_LOOP, Cell
from clipperf.nouns.from_files import FileWork
from clipperf.nouns.memory import LARGEST_BATCH, by_tower
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment, Measurement, ResultFile
from clipperf.nouns.serving import Serving
from clipperf.nouns.variant import (
    BASELINE_PRECISION,
    BASELINE_RUNTIME,
    FLOATS,
    PixelDtype,
    Side,
)
from clipperf.system import files, results, store

Then = Callable[[Sequence[Measurement], OnEvent], Sequence[Job]]
"""From the rows that were measured to jobs that follow from them."""

SHORTEST_TEXT = 2
"""Its first token and its last."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What to measure: every combination of these, driven as the `scenario` says.

    `instances` run side by side, on each of the `places` where there are several devices; where
    `divided`, they share out the threads. `within` bounds the memory of a largest batch, which
    follows from the others and is run once.
    """

    specs: tuple[ModelSpec, ...]
    runtimes: tuple[str, ...]
    sides: tuple[Side, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...] = (BASELINE_PRECISION,)
    device: str | None = None
    threads: int = 1
    tokens: tuple[int, ...] | None = None
    inputs: tuple[PixelDtype, ...] = FLOATS
    scenario: str = CLOSED_LOOP
    files: FileWork | None = None
    serving: Serving | None = None
    within: Limits = UNLIMITED
    instances: tuple[int, ...] = (1,)
    places: tuple[str, ...] = ()
    divided: bool = False

    @property
    def devices(self) -> dict[str, str]:
        """Where each runtime runs; raises UsageError where one cannot."""
        return prepare.choose_devices(self.runtimes, self.device)

    def groups(self) -> list[Group]:
        """The cells, grouped by what is compared with each other.

        PyTorch is measured in the asked precision as well as in fp32 where it gains by that: it is
        what others have to beat there.
        """
        devices = self.devices
        device = devices.get(BASELINE_RUNTIME, "cpu")
        found: list[Group] = []
        each = max(1, len(self.places))
        for count in self.instances:
            groups = plan(
                self.specs,
                self.runtimes,
                sides=self.sides,
                batches=self.batches,
                precisions=self.precisions,
                devices=devices,
                baseline_precisions=prepare.baseline_precisions(device, self.precisions),
                threads=(max(1, self.threads // (count * each)) if self.divided else self.threads,),
                tokens=self.tokens,
                inputs=prepare.choose_inputs(self.runtimes, self.inputs),
                scenario=self.scenario,
            )
            found += [self._beside(group, count) for group in groups]
        return found

    def _beside(self, group: Group, count: int) -> Group:
        """A group whose cells run so many instances, on each of several devices."""
        if count == 1 and not self.places:
            return group
        every, named = count * max(1, len(self.places)), ",".join(self.places)
        cells = tuple(
            dataclasses.replace(cell, instances=every, device=named or cell.device)
            for cell in group.cells
        )
        return Group(f"{group.id}/instances{every}", cells)

    @property
    def rows(self) -> int:
        """How many rows a sweep without failures gives."""
        groups = self.groups()
        towers = by_tower((c for group in groups for c in group.cells), lambda cell: cell)
        checks = 0 if self.within == UNLIMITED else len(towers)
        return SCENARIOS.get(self.scenario).rows(groups) + checks


def best_of(
    sweep: Sweep, precisions: Sequence[str] | None, on_stage: prepare.OnStage
) -> tuple[Sweep, Choice[None]]:
    """A sweep of PyTorch and the best that all of its models have, made here; see `best`.

    A model whose weights cannot be had says so in its rows, and has no part in the choice.

    Raises:
        UsageError: an unknown scenario or device, or no text has as many tokens.
        ClipperfError: see `best`.
    """
    SCENARIOS.get(sweep.scenario)
    check_tokens(sweep)
    prepare.choose_devices((BASELINE_RUNTIME,), sweep.device)
    bounds = (min(sweep.batches), max(sweep.batches))
    choice = best_for(
        sweep.specs, sweep.sides, sweep.inputs, bounds, precisions, sweep.device, on_stage
    )
    runtimes = (BASELINE_RUNTIME, choice.taken.runtime)
    found = precisions or (choice.taken.precision,)
    return dataclasses.replace(sweep, runtimes=runtimes, precisions=tuple(found)), choice


def profile(
    sweep: Sweep,
    settings: Settings,
    *,
    launcher: str = "local",
    command: str = "",
    path: Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> ResultFile:
    """Measure a sweep and write its result file, again after every row (see `results.filled`).

    What `path` held before stays until the first row. `launcher` names where it runs. Cells that
    fail are rows with a reason. Ctrl-C leaves the rows so far in the file.

    Raises:
        UsageError, MissingDependencyError: before anything is measured.
        StorageError: the result file cannot be written; checked before measuring.
    """
    where = LAUNCHERS.get(launcher)
    SCENARIOS.get(sweep.scenario)
    devices = sweep.devices
    if where.here:
        prepare.check_usable(devices)
    prepare.check_precisions(devices, sweep.precisions)
    check_limits(sweep.within, devices)
    check_tokens(sweep)
    groups = sweep.groups()
    return measured(
        lambda tell: jobs_of(sweep, groups, settings, tell),
        sweep.specs,
        where,
        command=command,
        path=path,
        on_event=on_event,
        then=lambda rows, tell: checks_of(sweep, rows, settings, tell),
    )


def measured(
    jobs: Callable[[OnEvent], Sequence[Job]],
    specs: tuple[ModelSpec, ...],
    where: Launcher,
    *,
    command: str = "",
    path: Path | None = None,
    on_event: OnEvent = lambda event: None,
    then: Then = lambda rows, tell: (),
) -> ResultFile:
    """Make `jobs`, have them measured, and write the result file; see `profile`.

    `then` makes more of the rows that came of them.

    Raises:
        StorageError: the result file cannot be written; checked before jobs are made.
    """
    with where.open() as machines:
        result = ResultFile(
            schema_version=store.SCHEMA_VERSION,
            kind="profile",
            command=command,
            created_utc=files.utc_now(),
            environments=tuple(machines.environments),
            specs=specs,
            path=str(path or store.new_result_path("profile")),
        )
        with results.filled(Path(result.path)) as write:

            def keep(event: Event) -> None:
                nonlocal result
                if event.kind == "finished":
                    return
                if event.kind != "started":
                    result = recorded(result, event, machines.environments)
                    if result.measurements:
                        write(result)
                if event.kind != "fact":
                    on_event(event)

            machines.run(jobs(keep), keep)
            if more := then(result.measurements, keep):
                machines.run(more, lambda event: None if event.kind == "fact" else keep(event))
    return result


def check_tokens(sweep: Sweep) -> None:
    """Make sure that every model takes texts of the lengths that are asked for.

    Raises:
        UsageError: one does not.
    """
    if sweep.tokens and min(sweep.tokens) < SHORTEST_TEXT:
        raise UsageError(
            f"--tokens {min(sweep.tokens)}: a text has a first and a last token, which are "
            f"{SHORTEST_TEXT}"
        )
    for spec in sweep.specs:
        if sweep.tokens and max(sweep.tokens) > spec.context_tokens:
            raise UsageError(
                f"{spec.id} takes texts of up to {spec.context_tokens} tokens, not "
                f"{max(sweep.tokens)}: choose shorter --tokens"
            )


def jobs_of(
    sweep: Sweep, groups: Sequence[Group], settings: Settings, on_event: OnEvent
) -> list[Job]:
    """A job for each group, with what is missing exported now."""
    specs = {spec.id: spec for spec in sweep.specs}
    cells: dict[Cell, Prepared] = {}
    for cell in dict.fromkeys(cell for group in groups for cell in group.cells):
        spec = specs[cell.model_id]
        try:
            cells[cell] = prepared(cell, spec, max(sweep.batches), on_event)
        except ClipperfError as exc:
            cells[cell] = prepare.unprepared(cell, spec, exc)
    return [
        Job(
            group=group.id,
            scenario=sweep.scenario,
            cells=tuple(cells[cell] for cell in group.cells),
            settings=settings,
            text_ids=family_of(spec).text_ids(spec),
            files=sweep.files,
            serving=sweep.serving,
        )
        for group in groups
        for spec in (specs[group.cells[0].model_id],)
    ]


def checks_of(
    sweep: Sweep, rows: Sequence[Measurement], settings: Settings, on_event: OnEvent
) -> list[Job]:
    """A job for each tower's largest batch within the sweep's limits, see `largest.foreseen`."""
    specs = {spec.id: spec for spec in sweep.specs}
    found = []
    for cell, expected in foreseen(rows, sweep.within):
        spec = specs[cell.model_id]
        try:
            ready = prepared(cell, spec, cell.batch, on_event)
        except ClipperfError as exc:
            ready = prepare.unprepared(cell, spec, exc)
        ready = dataclasses.replace(ready, foreseen=expected)
        ids = family_of(spec).text_ids(spec)
        found.append(Job(f"{cell.label}/within", LARGEST_BATCH, (ready,), settings, ids))
    return found


def prepared(cell: Cell, spec: ModelSpec, largest_batch: int, on_event: OnEvent) -> Prepared:
    """A cell with what opens its engine, exported now where it is missing; raises what speaks
    against it."""

    def stage(text: str) -> None:
        on_event(Event("started", f"{cell.model_id}: {text}"))

    return Prepared(*prepare.engine_request(cell, spec, stage, largest_batch))


def without_noise(row: Measurement) -> Measurement:
    """A row without the time that it took to draw random weights: no measure of reading a file."""
    own = row.random_weights and row.endpoint is None
    drawn = own and contract.get(row.cell.runtime).artifact is None
    return dataclasses.replace(row, load_s=None) if drawn else row


def recorded(result: ResultFile, event: Event, environments: Sequence[Environment]) -> ResultFile:
    """A result file with what an event brings, and the machines that are known by now."""
    result = dataclasses.replace(result, environments=tuple(environments))
    if event.kind in ("note", "fact"):
        return dataclasses.replace(result, notes=(*result.notes, event.text))
    row = event.measurement
    if row is None:
        return result
    return dataclasses.replace(result, measurements=(*result.measurements, without_noise(row)))


def failures(result: ResultFile) -> list[Measurement]:
    """The rows that did not work, one per cell."""
    bad = {row.cell: row for row in result.measurements if row.status != "ok"}
    return list(bad.values())
