"""Jobs of the measuring harness for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipperf.bench.cost import Settings
from clipperf.bench.jobs import Job, OnEvent, Prepared, run_job
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.result import Environment, Measurement


def measure_group(
    requests: Sequence[EngineRequest],
    settings: Settings,
    env: Environment,
    on_event: OnEvent = lambda event: None,
    *,
    group: str = "",
    known_memory: Mapping[Cell, Measurement] | None = None,
    disk_bytes: Mapping[Cell, int] | None = None,
) -> list[Measurement]:
    """Run cells as one job of the closed loop; returns its rows."""
    cells = tuple(Prepared(request, (disk_bytes or {}).get(request.cell)) for request in requests)
    job = Job(group, "closed-loop", cells, settings)
    return run_job(job, env, list((known_memory or {}).values()), on_event)
