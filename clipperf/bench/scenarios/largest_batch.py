"""The scenario "largest-batch": batches whose peak of memory was foreseen, run under the limit.

Each cell runs once, in a fresh process that ends where it takes more than the limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from clipperf import units
from clipperf.bench.cost import Limits
from clipperf.bench.jobs import Event, Job, OnEvent, Scenario, row_a_cell
from clipperf.bench.passes import failure, memory_pass
from clipperf.errors import LimitError, UsageError
from clipperf.nouns.memory import LARGEST_BATCH, Foreseen, peak_of
from clipperf.nouns.result import Environment, Measurement
from clipperf.text import one_line


def measure(job: Job, env: Environment, earlier: Sequence[Measurement], on_event: OnEvent) -> None:
    """Run each cell once within its limit; raises UsageError where nothing was foreseen."""
    for cell in job.cells:
        foreseen, label = cell.foreseen, cell.request.cell.label
        if foreseen is None:
            raise UsageError(
                f"--scenario {LARGEST_BATCH} follows from measured batches: leave it out and give "
                f"--ram-gb"
            )
        on_event(Event("started", f"{label}: memory within {units.size(foreseen.limit_bytes)}"))
        ram = foreseen.limit_bytes if foreseen.what == "RAM" else None
        vram = foreseen.limit_bytes if foreseen.what == "VRAM" else None
        limits = Limits(job.settings.limits.seconds, ram, vram)
        settings = dataclasses.replace(job.settings, limits=limits)
        found = memory_pass(cell.request, settings, env, job.text_ids)
        row = dataclasses.replace(
            found,
            kind="check",
            foreseen=foreseen,
            group=job.group,
            disk_bytes=cell.disk_bytes,
        )
        peak = peak_of(row, foreseen.what)
        if row.status == "ok" and peak is None:
            said = f"the peak of {foreseen.what} could not be measured, so nothing was checked"
            row = dataclasses.replace(row, status="failed", error=said)
        if row.status == "ok" and peak is not None and peak > foreseen.limit_bytes:
            # Between two looks at the process it had more for a moment.
            said = f"over the limit of {units.size(foreseen.limit_bytes)} {foreseen.what}"
            row = dataclasses.replace(row, **failure(LimitError(f"{said}: {units.size(peak)}")))
        on_event(Event("measured", describe(row, foreseen), row))


def describe(row: Measurement, foreseen: Foreseen) -> str:
    """One line about a finished row."""
    head = f"{row.cell.label}: {foreseen.what} {units.size(round(foreseen.peak_bytes))} foreseen"
    peak = peak_of(row, foreseen.what)
    if row.status != "ok" or peak is None:
        return f"{head}, {row.status}: {one_line(row.error or 'no reason was recorded')}"
    return f"{head}, {units.size(peak)} measured"


SCENARIO = Scenario(LARGEST_BATCH, measure, row_a_cell, "check")
