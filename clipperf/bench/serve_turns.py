"""What the scenarios of serving share: cells take turns, one test of LoadGen's after the other.

Each cell is open in a process of its own, as in "closed-loop". What a test tells decides what the
cell's next one offers.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipperf import stats, units
from clipperf.bench import loadgen
from clipperf.bench.endpoint_turns import begin
from clipperf.bench.jobs import Event, Job, OnEvent, Prepared, Scenario, row_a_cell
from clipperf.bench.passes import Turn, block_command, noted, open_for_time, worker_of
from clipperf.bench.peak_rate import peak_rate
from clipperf.errors import EngineError, UsageError
from clipperf.nouns.result import Environment, Measurement
from clipperf.nouns.serving import Serving, ServingRun, Trial
from clipperf.serialize import from_json
from clipperf.text import one_line

Tests = Generator[float, Trial, None]
"""Rates to offer, one test each; each is sent back as what came of it."""

TRIES = 3
"""How often a test that ended too soon is given more inputs."""
SPARE = 1.3


def until_long_enough(capacity_per_s: float, serving: Serving) -> Tests:
    """A test whose number of inputs rests on a guess of the rate, again where that was too low."""
    rate = capacity_per_s
    for _ in range(TRIES):
        trial = yield rate
        if trial.valid:
            return
        rate = SPARE * max(rate, trial.per_s)


def up_to_the_bound(capacity_per_s: float, serving: Serving) -> Tests:
    """Rates around the highest that keeps to the bound; see `peak_rate`.

    One that does not is tried once more, as other programs may have had the cores. Where even the
    quickest answer came late no rate can hold. A rate that is asked for is the only one.
    """
    if serving.rate_per_s is not None:
        yield serving.rate_per_s
        return
    rates = peak_rate(capacity_per_s, serving.rel_width)
    with contextlib.suppress(StopIteration):
        rate = next(rates)
        while True:
            trial = yield rate
            if serving.slo_s is not None and trial.least_s > serving.slo_s:
                return
            if not trial.valid:
                trial = yield rate
            rate = rates.send(trial.valid)


@dataclass
class Served(Turn):
    """One cell while it is measured."""

    tests: Tests | None = None
    rate_per_s: float | None = None
    trials: list[Trial] = field(default_factory=list)

    def begin(self, tests: Tests) -> None:
        """Take the first test."""
        self.tests, self.rate_per_s = tests, next(tests)

    def keep(self, trial: Trial) -> None:
        """Note what a test gave, and what comes next."""
        assert self.tests is not None
        self.trials.append(trial)
        try:
            self.rate_per_s = self.tests.send(trial)
        except StopIteration:
            self.rate_per_s = None


def scenario(name: str, tests: Callable[[float, Serving], Tests]) -> Scenario:
    """The scenario of a name, whose tests follow from an engine's own rate and what is asked for.

    Its `measure` offers inputs to all cells of a job, in turns, and gives a row a cell. It raises
    UsageError where nobody said how, MissingDependencyError where LoadGen is not installed.
    """

    def measure(
        job: Job, env: Environment, earlier: Sequence[Measurement], on_event: OnEvent
    ) -> None:
        if job.serving is None:
            raise UsageError(f"nobody said how inputs come: --scenario {name}")
        loadgen.check()
        _measure(name, tests, job, job.serving, env, on_event)

    return Scenario(name, measure, row_a_cell, "serving")


def _measure(
    name: str,
    tests: Callable[[float, Serving], Tests],
    job: Job,
    serving: Serving,
    env: Environment,
    on_event: OnEvent,
) -> None:
    turns = [Served(cell.request, job.row(cell, "serving", env)) for cell in job.cells]
    label = turns[0].request.cell.label
    on_event(Event("started", f"{label}: {name}, {len(turns)} in turns"))
    with contextlib.ExitStack() as held:
        for turn, cell in zip(turns, job.cells, strict=True):
            with noted(turn):
                worker = worker_of(turn.request, job.settings, alone=len(turns) == 1)
                turn.worker = held.enter_context(worker)
                turn.worker.greet()
                turn.begin(tests(_capacity_per_s(turn, cell, job, on_event), serving))
        waiting = list(turns)
        while waiting:
            for turn in list(waiting):
                if turn.row.status == "ok" and turn.rate_per_s:
                    with noted(turn):
                        _test(turn, name, serving, on_event)
                if turn.row.status != "ok" or not turn.rate_per_s:
                    waiting.remove(turn)
                    run = ServingRun(serving, tuple(turn.trials), best_of(turn.trials))
                    row = dataclasses.replace(turn.row, serving=run, stable=None)
                    on_event(Event("measured", describe(row), row))


def best_of(trials: Sequence[Trial]) -> int | None:
    """The place of the valid one with the highest rate."""
    valid = [place for place, trial in enumerate(trials) if trial.valid]
    return max(valid, key=lambda place: trials[place].rate_per_s, default=None)


def _capacity_per_s(turn: Served, prepared: Prepared, job: Job, on_event: OnEvent) -> float:
    """Inputs a second of the engine alone, in batches of the cell's size."""
    cell, block = turn.request.cell, block_command(job.settings)
    if turn.request.endpoint is None:
        open_for_time(turn, job.text_ids)
        turn.ask("sizes")
    else:
        block["streams"] = begin(turn, prepared, job, on_event)
    ran = turn.ask("block", **block)
    return cell.batch * ran.get("streams", cell.streams) / stats.median(ran["samples"])


def _test(turn: Served, name: str, serving: Serving, on_event: OnEvent) -> None:
    assert turn.worker is not None and turn.rate_per_s is not None
    said = f"{turn.request.cell.label}: {name}, {units.rate(turn.rate_per_s)} inputs/s"
    on_event(Event("started", said))
    answer = turn.worker.ask(
        "offer",
        _end_if_failed,
        scenario=name,
        serving=serving,
        rate_per_s=turn.rate_per_s,
    )
    turn.keep(from_json(Trial, answer["trial"]))


def _end_if_failed(told: Any) -> None:
    """Not wait for LoadGen, which offers inputs until its time is over."""
    if "failed" in told:
        raise EngineError(f"while inputs were offered: {told['failed']}")


def describe(row: Measurement) -> str:
    """One line about a finished row."""
    head = f"{row.cell.label}: {row.cell.scenario}"
    if row.status != "ok":
        return f"{head} {row.status}: {one_line(row.error or '')}"
    run = row.serving
    if run is None or run.counts is None:
        return f"{head}: no test was valid"
    return f"{head} {units.rate(run.counts.rate_per_s)} inputs/s, {len(run.trials)} tests"
