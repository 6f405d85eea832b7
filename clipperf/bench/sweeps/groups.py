"""The comparison groups of a sweep: prepared when a launcher takes them, kept as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from clipperf.bench import cost
from clipperf.bench.jobs import Away, Event, Job, Machines, Prepared
from clipperf.bench.prepare import unprepared, weights_of
from clipperf.bench.profile import prepared, without_noise
from clipperf.bench.retries import ended_of, kept, tried_twice, worst
from clipperf.bench.sweeps import ledger
from clipperf.bench.sweeps.cells import Study, Unit
from clipperf.bench.sweeps.ledger import Ledger
from clipperf.bench.sweeps.tally import Tally
from clipperf.errors import ClipperfError, StorageError, UsageError
from clipperf.models.family import family_of
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import CLIP_IDS
from clipperf.nouns.result import Environment, Measurement


@dataclass
class _Open:
    """A unit that is being measured."""

    unit: Unit
    made: dict[Cell, str]
    spent_s: Callable[[], float]
    rows: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    last: bool = False


class Groups:
    """The groups of a study on some machines."""

    def __init__(self, study: Study, kept: Ledger, machines: Machines, tally: Tally) -> None:
        self.study, self.kept, self.machines, self.tally = study, kept, machines, tally
        self.open: dict[str, _Open] = {}
        self.again: list[Unit] = []
        self.facts: list[str] = []
        self.errors: dict[tuple[str, ...], ClipperfError] = {}

    @property
    def environment(self) -> Environment:
        """The machine that measures."""
        return self.machines.environments[0]

    def measure(self) -> None:
        """All groups, then once more those of which a process was killed."""
        self.machines.run(self.jobs(), self.keep)
        again, self.again = self.again, []
        if again and not self.tally.stopping():
            self.errors = {k: e for k, e in self.errors.items() if ended_of(e) != "killed"}
            self.machines.run(self.jobs(again), self.keep)

    def jobs(self, again: Sequence[Unit] = ()) -> Iterator[Job]:
        """A job for each group that is not there, prepared when it is asked for."""
        for unit in again or [unit for unit in self.study.units if unit.driven is not None]:
            if self.tally.stopping():
                return
            if again:
                self.tally.tell(
                    "again", f"{unit.id}: once more, a process of it was killed", unit.id
                )
            job = self.job(unit, last=bool(again))
            if job is not None:
                yield job

    def job(self, unit: Unit, last: bool) -> Job | None:
        """The job of a group; None where it is there, or somebody asked to stop."""
        driven = unit.driven
        assert driven is not None
        cells = self.prepared_cells(unit)
        if cells is None:
            return None
        away, spec = isinstance(self.machines, Away), unit.spec
        weights = None if away or spec.random_weights else weights_of(spec)
        made = {
            each.request.cell: ledger.made_of(each, each.weights or weights or spec.pretrained)
            for each in cells
        }
        settings = self.study.settings
        memory = []
        for cell in unit.cells:
            for env in self.machines.environments:
                found = self.kept.memory(cell, made[cell], settings, env)
                if found is not None:
                    memory.append(found)
                    self.tally.outcome.memory[f"{cell} {env.id}"] = found
        for env in self.machines.environments:
            there = self.kept.find(unit, self.key(unit, made, env), settings.limits)
            if there is not None:
                self.tally.count(unit, there, valid=True)
                return None
        self.open[unit.id] = _Open(unit, made, cost.stopwatch(), last=last)
        return Job(
            group=unit.id,
            scenario=driven.scenario,
            cells=tuple(cells),
            settings=settings,
            text_ids=CLIP_IDS if away else family_of(spec).text_ids(spec),
            files=driven.files,
            serving=driven.serving,
            known=tuple(row for found in memory for row in found.measurements),
        )

    def key(self, unit: Unit, made: Mapping[Cell, str], env: Environment) -> str:
        """The key of a group on a machine."""
        return ledger.key_of(unit, [made[cell] for cell in unit.cells], self.study.settings, env)

    def prepared_cells(self, unit: Unit) -> list[Prepared] | None:
        """What opens each cell of a group, or why not; None where somebody asked to stop."""
        if isinstance(self.machines, Away):
            return self.prepared_away(self.machines, unit)
        cells = []
        for cell in unit.cells:
            if self.tally.stopping():
                return None
            cells.append(self.prepared(cell, unit))
        return cells

    def prepared_away(self, machines: Away, unit: Unit) -> list[Prepared]:
        """The same, where a machine that measures makes them."""

        def on_event(event: Event) -> None:
            self.tally.tell("stage", event.text, unit.id)

        asked = [cell for cell in unit.cells if _kind(cell, unit) not in self.errors]
        found = machines.prepared(asked, unit.spec, unit.largest_batch, on_event) if asked else ()
        made: dict[Cell, Prepared] = {}
        for cell, each in zip(asked, found, strict=True):
            made[cell] = each if isinstance(each, Prepared) else self.failed(cell, unit, each)
        return [made.get(cell) or self.known(cell, unit) for cell in unit.cells]

    def prepared(self, cell: Cell, unit: Unit) -> Prepared:
        """What opens a cell's engine, or why there is none.

        What could not be made is not tried again for another cell that loads the same; a refusal
        costs nothing and may be of this cell alone, as of the length of its texts.

        Raises:
            StorageError: the disk is full, or cannot be written.
        """

        def on_event(event: Event) -> None:
            self.tally.tell("stage", event.text, unit.id)

        if _kind(cell, unit) in self.errors:
            return self.known(cell, unit)
        try:
            return tried_twice(lambda: prepared(cell, unit.spec, unit.largest_batch, on_event))
        except ClipperfError as exc:
            return self.failed(cell, unit, exc)

    def failed(self, cell: Cell, unit: Unit, exc: ClipperfError) -> Prepared:
        """A cell that could not be prepared, which is remembered but for refusals.

        Raises:
            StorageError: the error, where it is one.
        """
        if isinstance(exc, StorageError):
            raise exc
        if not isinstance(exc, UsageError):
            self.errors[_kind(cell, unit)] = exc
        return unprepared(cell, unit.spec, kept(exc))

    def known(self, cell: Cell, unit: Unit) -> Prepared:
        """A cell that loads what could not be made before."""
        return unprepared(cell, unit.spec, kept(self.errors[_kind(cell, unit)]))

    def keep(self, event: Event) -> None:
        """What a launcher tells; rows of memory are on disk from here on."""
        held = self.open.get(event.group)
        row = event.measurement
        if event.kind == "finished":
            self.finish(event.group)
        elif row is not None and held is not None:
            row = without_noise(row)
            if row.kind == "memory" and row.status == "ok":
                self.keep_memory(held, row)
            else:
                held.rows.append(row)
            self.tally.tell("measured", event.text, event.group)
        elif event.kind == "started":
            self.tally.tell("stage", event.text, event.group)
        elif held is None:
            self.facts.append(event.text)
        else:
            held.notes.append(event.text)
            if event.kind == "note":
                self.tally.tell("note", event.text, event.group)

    def keep_memory(self, held: _Open, row: Measurement) -> None:
        """A memory row goes to disk by itself."""
        env = self.machine_of(row)
        made, settings = held.made[row.cell], self.study.settings
        self.kept.keep_memory(row, made, settings, env, held.unit.spec)
        found = self.kept.memory(row.cell, made, settings, env)
        if found is not None:
            self.tally.outcome.memory[f"{row.cell} {env.id}"] = found

    def machine_of(self, row: Measurement) -> Environment:
        """The machine that a row was measured on."""
        known = {env.id: env for env in self.machines.environments}
        return known.get(row.env_id, self.environment)

    def finish(self, group: str) -> None:
        """A group that is measured goes to disk as a whole."""
        held = self.open.pop(group)
        unit = held.unit
        machines = {row.env_id: self.machine_of(row) for row in held.rows}
        result = ledger.new_result(
            "profile", self.kept.command, list(machines.values()) or [self.environment],
            (unit.spec,), held.rows, (*self.facts, *held.notes),
        )  # fmt: skip
        env = next(iter(machines.values()), self.environment)  # a job is one machine's
        key = self.key(unit, held.made, env)
        ended = worst([row.ended for row in held.rows])
        limits = self.study.settings.limits
        result = self.kept.write(unit, key, ended, limits, result)
        self.tally.spend(unit, held.spent_s())
        if ended == "killed" and not held.last:
            self.again.append(unit)
            return
        self.tally.count(unit, result)


def _kind(cell: Cell, unit: Unit) -> tuple[str, ...]:
    """Equal for cells that load the same."""
    return (
        unit.spec.id, cell.side, cell.runtime, cell.precision, cell.device, cell.input,
        f"{unit.largest_batch}",
    )  # fmt: skip
