"""The scenario "single-stream": one input at a time, the next as soon as the answer is there."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf.bench import serve_turns
from clipperf.bench.jobs import Job, OnEvent, Scenario
from clipperf.nouns.result import Environment, Measurement
from clipperf.nouns.serving import SINGLE_STREAM


def measure(job: Job, env: Environment, earlier: Sequence[Measurement], on_event: OnEvent) -> None:
    """A row a cell; see `serve_turns.measure`."""
    serve_turns.measure(SINGLE_STREAM, serve_turns.until_long_enough, job, env, on_event)


SCENARIO = Scenario(SINGLE_STREAM, measure, serve_turns.rows, "serving")
