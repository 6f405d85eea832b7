"""The parent of the harness: measures groups of cells in fresh processes, one row a cell a pass.

Memory comes first, each cell alone in a process of its own. Then come the times: all cells of a
group are opened, each in a process of its own, and take turns block by block; while one runs,
the others sit in a blocking read, and so does the parent. Whatever goes wrong in a worker (an
error, a crash, the kernel's out-of-memory killer, a hang) is a row with its reason.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipperf import stats, units
from clipperf.bench import cost, gpu_meters, meters
from clipperf.bench.cost import Settings
from clipperf.bench.inputs import CLIP_IDS, TextIds
from clipperf.bench.passes import blank, memory_pass, time_pass
from clipperf.errors import MeasurementError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment, Measurement

RAM_SHARE = 0.9
"""How much of what is free a group may plan to use."""

BUSY_SHARE = 0.15
"""From here on other programs' use of the cores is worth a note."""


@dataclass(frozen=True)
class Event:
    """Progress: a pass of a cell starts, a row is done (`measurement`), or something to know."""

    kind: Literal["started", "measured", "note"]
    text: str
    cell: Cell | None = None
    measurement: Measurement | None = None


OnEvent = Callable[[Event], None]


def measure_group(
    requests: Sequence[EngineRequest],
    settings: Settings,
    env: Environment,
    on_event: OnEvent | None = None,
    *,
    group: str = "",
    text_ids: TextIds = CLIP_IDS,
    known_memory: Mapping[Cell, Measurement] | None = None,
    disk_bytes: Mapping[Cell, int] | None = None,
) -> list[Measurement]:
    """Measure cells that are compared with each other; the first one is the baseline.

    Every row is handed to `on_event` as soon as it is there, memory rows first, so that the
    caller can save it. `group` names the group in the time rows. `known_memory` holds memory
    rows of an earlier group, which are used and not measured again. `disk_bytes` is what each
    cell's artifact takes on disk, copied into its rows.

    Returns one memory row (unless known) and one time row for every request. A cell that fails
    in the memory pass gets a time row with the same status and reason without being run again.
    Where RAM or VRAM cannot hold the whole group at once, the cells take turns with the baseline
    in pairs, and the baseline has a time row for each pair, told apart by its `group`. That, and
    a machine that is busy with something else, are notes for the result file.
    Ctrl-C ends all workers and passes on.
    """
    tell: OnEvent = on_event or (lambda event: None)
    rows: list[Measurement] = []

    def keep(row: Measurement) -> None:
        row = dataclasses.replace(row, disk_bytes=(disk_bytes or {}).get(row.cell))
        rows.append(row)
        tell(Event("measured", describe(row), row.cell, row))

    memory: dict[Cell, Measurement] = dict(known_memory or {})
    for request in requests:
        if request.cell not in memory:
            tell(Event("started", f"{request.cell.label}: memory", request.cell))
            memory[request.cell] = memory_pass(request, settings, env, text_ids)
            keep(memory[request.cell])
    ready = []
    for request in requests:
        row = memory[request.cell]
        if row.status == "ok":
            ready.append(request)
        else:
            failed = blank(request, "time", env)
            keep(dataclasses.replace(failed, status=row.status, error=row.error, group=group))
    if ready and (busy := meters.busy_share()) is not None and busy > BUSY_SHARE:
        tell(Event("note", f"other programs use {units.share(busy)} of the cores: noisy times"))
    for index, party in enumerate(parties(ready, memory, tell)):
        name = group if index == 0 else f"{group}#{index + 1}"
        tell(Event("started", f"{party[0].cell.label}: time, {len(party)} in turns"))
        for row in time_pass(party, settings, env, name, text_ids):
            keep(row)
    return rows


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
        return f"{head} {row.status}: {(row.error or '').splitlines()[0]}"
    if row.kind == "memory":
        return (
            f"{head} {units.size(row.rss_peak_bytes)} RAM, {units.size(row.vram_peak_bytes)} VRAM"
        )
    if not row.run_s:
        return f"{head}: no time left for a block"
    state = "" if row.stable else ", unstable"
    return f"{head} {units.seconds(stats.median(row.run_s))} a run, {len(row.run_s)} runs{state}"


def harness_overhead_s(env: Environment, settings: Settings = cost.QUICK) -> float:
    """Median seconds that the harness measures for a run that costs nothing.

    Raises:
        MeasurementError: the harness does not work on this machine.
    """
    spec = ModelSpec("empty", "simulated", "empty", "random:0", 8, 8, 8)
    cell = Cell(spec.id, "image", "simulated", "fp32", "cpu", 1, 1)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "empty.json"
        script.write_text("{}")
        request = EngineRequest(cell, spec, str(script))
        # A call is too short for `min_s` ever to be reached; the number of calls is enough.
        rows = time_pass([request], dataclasses.replace(settings, min_s=0.0), env, "overhead")
    if rows[0].status != "ok" or not rows[0].run_s:
        raise MeasurementError(f"the measuring harness does not work here: {rows[0].error}")
    return stats.median(rows[0].run_s)
