"""What the scenarios of serving share: cells take turns, one test of LoadGen's after the other.

Each cell is open in a process of its own, as in "closed-loop". What a test tells decides what the
cell's next one offers.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipperf import stats, units
from clipperf.bench import loadgen
from clipperf.bench.jobs import Event, Job, OnEvent, blank
from clipperf.bench.passes import Turn, block_command, open_for_time, worker_of
from clipperf.bench.peak_rate import peak_rate
from clipperf.bench.plan import Group
from clipperf.errors import ClipperfError, EngineError, UsageError
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
    quickest answer came late no rate can hold.
    """
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


def measure(
    scenario: str,
    tests: Callable[[float, Serving], Tests],
    job: Job,
    env: Environment,
    on_event: OnEvent,
) -> None:
    """Offer inputs to all cells of a job, in turns; a row a cell.

    Raises:
        UsageError: nobody said how.
        MissingDependencyError: LoadGen is not installed.
    """
    serving = job.serving
    if serving is None:
        raise UsageError(f"nobody said how inputs come: --scenario {scenario}")
    loadgen.check()
    turns = [Served(cell.request, blank(cell.request, "serving", env)) for cell in job.cells]
    name = turns[0].request.cell.label
    on_event(Event("started", f"{name}: {scenario}, {len(turns)} in turns"))
    with contextlib.ExitStack() as held:
        for turn in turns:
            with _noted(turn):
                turn.worker = held.enter_context(worker_of(turn.request, job.settings))
                turn.worker.greet()
                turn.begin(tests(_capacity_per_s(turn, job), serving))
        waiting = list(turns)
        while waiting:
            for turn in list(waiting):
                if turn.row.status == "ok" and turn.rate_per_s:
                    with _noted(turn):
                        _test(turn, scenario, serving, on_event)
                if turn.row.status != "ok" or not turn.rate_per_s:
                    waiting.remove(turn)
                    row = _row(turn, job, serving)
                    on_event(Event("measured", describe(row), row))


def _row(turn: Served, job: Job, serving: Serving) -> Measurement:
    """What a cell gave, once it has had its last test or failed."""
    disk_bytes = next(c.disk_bytes for c in job.cells if c.request is turn.request)
    run = ServingRun(serving, tuple(turn.trials), best_of(turn.trials))
    return dataclasses.replace(
        turn.row, group=job.group, disk_bytes=disk_bytes, serving=run, stable=None
    )


def best_of(trials: Sequence[Trial]) -> int | None:
    """The place of the valid one with the highest rate."""
    valid = [place for place, trial in enumerate(trials) if trial.valid]
    return max(valid, key=lambda place: trials[place].rate_per_s, default=None)


def _capacity_per_s(turn: Served, job: Job) -> float:
    """Inputs a second of the engine alone, in batches of the cell's size."""
    open_for_time(turn, job.text_ids)
    turn.ask("sizes")
    samples = turn.ask("block", **block_command(job.settings))["samples"]
    cell = turn.request.cell
    return cell.batch * cell.streams / stats.median(samples)


def _test(turn: Served, scenario: str, serving: Serving, on_event: OnEvent) -> None:
    assert turn.rate_per_s is not None
    said = f"{turn.request.cell.label}: {scenario}, {units.rate(turn.rate_per_s)} inputs/s"
    on_event(Event("started", said))
    answer = turn.ask(
        "offer",
        _end_if_failed,
        scenario=scenario,
        serving=serving,
        rate_per_s=turn.rate_per_s,
    )
    turn.keep(from_json(Trial, answer["trial"]))


def _end_if_failed(told: Any) -> None:
    """Not wait for LoadGen, which offers inputs until its time is over."""
    if "failed" in told:
        raise EngineError(f"while inputs were offered: {told['failed']}")


@contextlib.contextmanager
def _noted(turn: Served) -> Iterator[None]:
    """What goes wrong is the cell's row, which keeps what was measured before."""
    try:
        yield
    except ClipperfError as exc:
        turn.fail(exc)


def describe(row: Measurement) -> str:
    """One line about a finished row."""
    head = f"{row.cell.label}: {row.cell.scenario}"
    if row.status != "ok":
        return f"{head} {row.status}: {one_line(row.error or '')}"
    run = row.serving
    if run is None or run.counts is None:
        return f"{head}: no test was valid"
    return f"{head} {units.rate(run.counts.rate_per_s)} inputs/s, {len(run.trials)} tests"


def rows(groups: Sequence[Group]) -> int:
    """A row a cell."""
    return sum(len(group.cells) for group in groups)
