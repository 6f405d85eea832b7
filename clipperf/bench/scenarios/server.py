"""The scenario "server": as many inputs a second as keep to a bound, at random moments."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf.bench import serve_turns
from clipperf.bench.jobs import Job, OnEvent, Scenario
from clipperf.nouns.result import Environment, Measurement
from clipperf.nouns.serving import SERVER


def measure(job: Job, env: Environment, earlier: Sequence[Measurement], on_event: OnEvent) -> None:
    """A row a cell; see `serve_turns.measure`."""
    serve_turns.measure(SERVER, serve_turns.up_to_the_bound, job, env, on_event)


SCENARIO = Scenario(SERVER, measure, serve_turns.rows, "serving")
