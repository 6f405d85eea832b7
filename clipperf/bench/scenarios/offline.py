"""The scenario "offline": all inputs are there at once, in batches of the cell's size."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf.bench import serve_turns
from clipperf.bench.jobs import Job, OnEvent, Scenario
from clipperf.nouns.result import Environment, Measurement
from clipperf.nouns.serving import OFFLINE


def measure(job: Job, env: Environment, earlier: Sequence[Measurement], on_event: OnEvent) -> None:
    """A row a cell; see `serve_turns.measure`."""
    serve_turns.measure(OFFLINE, serve_turns.until_long_enough, job, env, on_event)


SCENARIO = Scenario(OFFLINE, measure, serve_turns.rows, "serving")
