"""The launcher "local": this machine, one job after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clipperf import stats, units
from clipperf.bench import cost
from clipperf.bench.cost import Settings
from clipperf.bench.jobs import Event, Job, Launcher, Machines, OnEvent, run_job
from clipperf.bench.passes import time_pass
from clipperf.errors import MeasurementError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment, Measurement
from clipperf.system import env, temporaries


@dataclasses.dataclass(frozen=True)
class Local:
    """This machine."""

    environment: Environment

    @property
    def environments(self) -> tuple[Environment]:
        """This machine alone."""
        return (self.environment,)

    def run(self, jobs: Iterable[Job], on_event: OnEvent) -> None:
        """Run the jobs in their order; before the first a look at what measuring costs here.

        Raises:
            MeasurementError: the harness does not work on this machine.
        """
        rows: list[Measurement] = []
        for number, job in enumerate(jobs):
            if number == 0:
                on_event(Event("fact", overhead_fact(self.environment)))
            done = run_job(job, self.environment, rows, on_event)
            rows += [row for row in done if row.ended != "killed"]


def overhead_fact(env: Environment) -> str:
    """What measuring costs here, in words.

    It is looked at once more where the process is killed, and left out where that is, too: that
    says nothing against the harness, and costs no cell.

    Raises:
        MeasurementError: the harness does not work on this machine.
    """
    cost_s = harness_overhead_s(env) or harness_overhead_s(env)
    if cost_s is None:
        return "What measuring itself costs is not known: its process was killed."
    return f"An engine that does nothing measures {units.seconds(cost_s)} a call here."


def harness_overhead_s(env: Environment, settings: Settings = cost.QUICK) -> float | None:
    """Median seconds that the harness measures for a run that costs nothing.

    None where its process was killed from outside.

    Raises:
        MeasurementError: the harness does not work on this machine.
    """
    spec = ModelSpec("empty", "simulated", "empty", "random:0", 8, 8, 8)
    cell = Cell(spec.id, "image", "simulated", "fp32", "cpu", 1, 1)
    with temporaries.scratch("overhead") as folder:
        script = Path(folder) / "empty.json"
        script.write_text("{}")
        request = EngineRequest(cell, spec, str(script))
        # A call is too short for `min_s` ever to be reached; the number of calls is enough.
        rows = time_pass([request], dataclasses.replace(settings, min_s=0.0), env, "overhead")
    if rows[0].ended == "killed":
        return None
    if rows[0].status != "ok" or not rows[0].run_s:
        raise MeasurementError(f"the measuring harness does not work here: {rows[0].error}")
    return stats.median(rows[0].run_s)


@contextmanager
def opened() -> Iterator[Machines]:
    """This machine, as it is now."""
    yield Local(env.capture())


LAUNCHER = Launcher("local", opened)
