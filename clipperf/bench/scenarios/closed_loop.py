"""The scenario "closed-loop": one caller, who asks again as soon as the answer is there.

Cells are measured in fresh processes, one row a cell a pass.

Memory comes first, each cell alone in a process of its own. Then come the times: all cells of a
group are opened, each in a process of its own, and take turns block by block; while one runs,
the others sit in a blocking read, and so does the parent. Whatever goes wrong in a worker (an
error, a crash, the kernel's out-of-memory killer, a hang) is a row with its reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from clipperf import stats, units
from clipperf.bench import gpu_meters, meters
from clipperf.bench.jobs import Event, Job, OnEvent, Scenario, blank
from clipperf.bench.passes import memory_pass, time_pass
from clipperf.bench.plan import Group
from clipperf.nouns.cell import CLOSED_LOOP, Cell, EngineRequest
from clipperf.nouns.result import NOISY, Environment, Measurement
from clipperf.text import one_line

RAM_SHARE = 0.9
"""How much of what is free a group may plan to use."""

BUSY_SHARE = 0.15
"""From here on other programs' use of the cores is worth a note."""


def measure(job: Job, env: Environment, earlier: Sequence[Measurement], on_event: OnEvent) -> None:
    """Measure cells that are compared with each other; the first one is the baseline.

    Memory rows come first; those of `earlier` jobs are used and not measured again. Then there is
    one time row for every cell. A cell that fails in the memory pass gets a time row with the same
    status and reason without being run again. Where RAM or VRAM cannot hold the whole group at
    once, the cells take turns with the baseline in pairs, and the baseline has a time row for each
    pair, told apart by its `group`. That, and a machine that is busy with something else, are
    notes for the result file. Ctrl-C ends all workers and passes on.
    """
    disk_bytes = {cell.request.cell: cell.disk_bytes for cell in job.cells}
    memory = {row.cell: row for row in earlier if row.kind == "memory"}

    def keep(row: Measurement) -> None:
        row = dataclasses.replace(row, disk_bytes=disk_bytes[row.cell])
        on_event(Event("measured", describe(row), row))

    requests = [cell.request for cell in job.cells]
    for request in requests:
        if request.cell not in memory:
            on_event(Event("started", f"{request.cell.label}: memory"))
            memory[request.cell] = memory_pass(request, job.settings, env, job.text_ids)
            keep(memory[request.cell])
            tell_bound(memory[request.cell], on_event)
    ready = []
    for request in requests:
        row = memory[request.cell]
        if row.status == "ok":
            ready.append(request)
        else:
            failed = blank(request, "time", env)
            failed = dataclasses.replace(failed, status=row.status, error=row.error)
            keep(dataclasses.replace(failed, ended=row.ended, group=job.group))
    if ready and (busy := meters.busy_share()) is not None and busy > BUSY_SHARE:
        on_event(Event("note", f"other programs use {units.share(busy)} of the cores: {NOISY}"))
    for index, party in enumerate(parties(ready, memory, on_event)):
        name = job.group if index == 0 else f"{job.group}#{index + 1}"
        on_event(Event("started", f"{party[0].cell.label}: time, {len(party)} in turns"))
        for row in time_pass(party, job.settings, env, name, job.text_ids):
            keep(row)


def tell_bound(row: Measurement, tell: OnEvent) -> None:
    """Note that the RAM of instances is an upper bound, where it counts shared pages for each."""
    several = row.cell.instances > 1 and row.rss_peak_bytes is not None
    if several and row.status == "ok" and row.rss_shared_bytes is None:
        said = "which pages they share is not known here, so their RAM is an upper bound"
        tell(Event("note", f"{row.cell.label}: {said}"))


def parties(
    requests: Sequence[EngineRequest], memory: Mapping[Cell, Measurement], tell: OnEvent
) -> list[list[EngineRequest]]:
    """Who is open at the same time: everybody, or pairs with the baseline, or each alone."""
    if not requests:
        return []
    if len(requests) == 1 or fits(requests, memory):
        return [list(requests)]
    base, others = requests[0], requests[1:]
    together: list[list[EngineRequest]] = []
    alone: list[list[EngineRequest]] = []
    for other in others:
        if fits([base, other], memory):
            together.append([base, other])
        else:
            alone.append([other])
    tell(Event("note", f"{base.cell.label}: memory cannot hold {len(requests)} workers at once"))
    if together:
        tell(Event("note", f"{len(together)} of {len(others)} take turns with it in pairs"))
    for party in alone:
        tell(Event("note", f"{party[0].cell.label}: measured alone, without pairing"))
    return together + alone if together else [[base], *alone]


def fits(requests: Sequence[EngineRequest], memory: Mapping[Cell, Measurement]) -> bool:
    """Whether workers for all requests fit in what is free now, judged by the memory pass."""
    rows = [memory[request.cell] for request in requests]
    ram = meters.available_ram_bytes()
    if ram is not None and sum(row.rss_peak_bytes or 0 for row in rows) > RAM_SHARE * ram:
        return False
    needed = sum(row.vram_peak_bytes or 0 for row in rows)
    if not needed:
        return True
    device = next(row.cell.device for row in rows if row.vram_peak_bytes)
    vram = gpu_meters.available_vram_bytes(device)
    return vram is None or needed <= RAM_SHARE * vram


def describe(row: Measurement) -> str:
    """One line about a finished row."""
    head = f"{row.cell.label}: {row.kind}"
    if row.status != "ok":
        return f"{head} {row.status}: {one_line(row.error or '')}"
    if row.kind == "memory":
        return (
            f"{head} {units.size(row.rss_peak_bytes)} RAM, {units.size(row.vram_peak_bytes)} VRAM"
        )
    if not row.run_s:
        return f"{head}: no time left for a block"
    state = "" if row.stable else ", unstable"
    return f"{head} {units.seconds(stats.median(row.run_s))} a run, {len(row.run_s)} runs{state}"


def rows(groups: Sequence[Group]) -> int:
    """A memory row a cell, a time row a turn."""
    cells = {cell for group in groups for cell in group.cells}
    return len(cells) + sum(len(group.cells) for group in groups)


SCENARIO = Scenario(CLOSED_LOOP, measure, rows)
