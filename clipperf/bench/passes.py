"""The two passes over a group of cells: memory, then time. Each worker is a fresh process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clipperf.bench import cost, gpu_meters
from clipperf.bench.cost import Settings
from clipperf.bench.crew import Crew, Worker
from clipperf.bench.gpu_figures import Seen
from clipperf.bench.jobs import blank
from clipperf.bench.limits import CLOSELY_S, SELDOM_S, guard_of, vram_over
from clipperf.errors import ChildError, ClipperfError, LimitError, UnsupportedError
from clipperf.nouns.cell import EngineRequest
from clipperf.nouns.endpoint import REMOTE
from clipperf.nouns.model import CLIP_IDS, TextIds
from clipperf.nouns.result import Environment, GpuLoad, Measurement
from clipperf.system.child import Child, child_environment

# --- memory --------------------------------------------------------------------------------


def memory_pass(
    request: EngineRequest, settings: Settings, env: Environment, text_ids: TextIds = CLIP_IDS
) -> Measurement:
    """Load and run one cell in a fresh process; returns its RAM and VRAM high-water marks.

    Of several instances all run at the same time, and the marks are their sums, shared pages once.
    Where nobody tells which are shared the sum is an upper bound, and no `rss_shared_bytes` known.
    """
    found: dict[str, Any] = {}
    # The sampler comes first: it notes what the GPU holds without the worker.
    with gpu_meters.sampler(request.cell.device) as gpu, contextlib.ExitStack() as held:
        try:
            worker = held.enter_context(worker_of(request, settings, CLOSELY_S))
            if gpu is not None:
                gpu.begin(worker.pid)
            found["rss_bare_bytes"] = worker.greet()["rss_bare_bytes"]
            opened = worker.ask("open", request=request, text_ids=text_ids)
            found["rss_load_peak_bytes"] = opened["rss_load_peak_bytes"]
            found["rss_source"] = opened["rss_source"]
            found["provider"] = opened["provider"]
            ran = worker.ask("memory", runs=settings.memory_runs)
            found["rss_run_peak_bytes"] = ran["rss_run_peak_bytes"]
            if request.cell.instances > 1:
                found["rss_shared_bytes"] = worker.ask("shared")["shared_bytes"]
            if gpu_meters.gpu_of(request.cell.device) is not None:
                found["vram_allocated_bytes"] = ran["vram_allocated_bytes"]
        except ClipperfError as exc:
            found.update(failure(exc))
        seen = None if gpu is None else gpu.end()
    found.update(vram_peak(seen, found.get("vram_allocated_bytes")))
    over = vram_over(settings.limits, found["vram_peak_bytes"])
    if over is not None and "status" not in found:  # a peak between two looks
        found.update(failure(LimitError(over)))
    found["rss_peak_bytes"] = largest(
        [found.get("rss_load_peak_bytes"), found.get("rss_run_peak_bytes")]
    )
    if found["rss_peak_bytes"] is not None:
        found["rss_peak_bytes"] -= found.get("rss_shared_bytes") or 0
    return dataclasses.replace(blank(request, "memory", env), **found)


def vram_peak(seen: Seen | None, allocated_bytes: int | None) -> dict[str, Any]:
    """The VRAM peak and its source: NVML's, else the runtime's own, else nothing."""
    if seen is not None and seen.vram_peak_bytes is not None:
        return {"vram_peak_bytes": seen.vram_peak_bytes, "vram_source": seen.vram_source}
    source = None if allocated_bytes is None else "allocator"
    return {"vram_peak_bytes": allocated_bytes, "vram_source": source}


# --- time ----------------------------------------------------------------------------------


@dataclass
class Turn:
    """One cell of a running time pass."""

    request: EngineRequest
    row: Measurement
    worker: Worker | None = None
    enough: bool = False
    """Whether it is the width of the interval alone that it is not stable for, if it is not."""

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Have the worker do something, which must be there; see `Child.ask`."""
        assert self.worker is not None
        return self.worker.ask(op, **fields)

    def fail(self, exc: ClipperfError) -> None:
        """Make a failed row of it that keeps what was measured before."""
        self.row = dataclasses.replace(self.row, **failure(exc))
        if self.worker is not None:
            self.worker.end()

    def add_block(
        self, number: int, samples: Sequence[float], settings: Settings, workers: Sequence[int] = ()
    ) -> None:
        """Append one block's raw samples and judge again whether the median has settled.

        Of several `workers`, one for each sample, that of each has to.
        """
        run_s = (*self.row.run_s, *samples)
        blocks = (*self.row.blocks, *([number] * len(samples)))
        row = dataclasses.replace(self.row, run_s=run_s, blocks=blocks)
        row = dataclasses.replace(row, workers=(*self.row.workers, *workers))
        count = len(set(blocks))
        by_worker = row.by_worker(run_s)
        self.enough = all(cost.is_enough(own, count, settings) for own in by_worker)
        stable = all(cost.is_stable(own, count, settings) for own in by_worker)
        self.row = dataclasses.replace(row, stable=stable)


@contextlib.contextmanager
def noted(turn: Turn) -> Iterator[None]:
    """What goes wrong is the cell's row, which keeps what was measured before."""
    try:
        yield
    except ClipperfError as exc:
        turn.fail(exc)


def time_pass(
    requests: Sequence[EngineRequest],
    settings: Settings,
    env: Environment,
    group: str,
    text_ids: TextIds = CLIP_IDS,
) -> list[Measurement]:
    """Open all cells, then let them take turns block by block until all medians have settled.

    The turns start with another cell each round, so no cell always runs after the same one. The
    rounds go on for the cells that are settled, too: pairs need blocks of equal number.
    """
    turns = [Turn(r, dataclasses.replace(blank(r, "time", env), group=group)) for r in requests]
    with contextlib.ExitStack() as held:
        for turn in turns:
            with noted(turn):
                worker = worker_of(turn.request, settings, alone=len(turns) == 1)
                turn.worker = held.enter_context(worker)
                turn.worker.greet()
                open_for_time(turn, text_ids)
        over = tired = cost.deadline(settings.max_s * len(turns))
        number = 0
        while live := [turn for turn in turns if turn.row.status == "ok"]:
            if all(turn.row.stable for turn in live) or over() or tired():
                break
            if tired is over and all(turn.enough for turn in live):
                tired = cost.deadline(settings.patience_s * len(turns))
            first = number % len(live)
            for turn in live[first:] + live[:first]:
                with noted(turn):
                    told = turn.ask("block", **block_command(settings))
                    turn.add_block(number, told["samples"], settings, told.get("workers", ()))
            number += 1
        for turn in turns:
            if turn.row.status == "ok" and gpu_meters.gpu_of(turn.request.cell.device):
                look_at_gpu(turn, settings)
    return [turn.row for turn in turns]


def open_for_time(turn: Turn, text_ids: TextIds) -> None:
    """Load the engine and run it once; both seconds go into the row."""
    opened = turn.ask("open", request=turn.request, text_ids=text_ids)
    turn.row = dataclasses.replace(turn.row, load_s=opened["load_s"], provider=opened["provider"])
    first_run_s = turn.ask("first")["first_run_s"]
    turn.row = dataclasses.replace(turn.row, first_run_s=first_run_s, stable=False)


def block_command(settings: Settings) -> dict[str, Any]:
    """The fields of a "block" command."""
    return {
        "sleep_s": settings.sleep_s,
        "warmup": settings.warmup,
        "calls": settings.block_calls,
        "min_s": settings.block_s,
        "max_s": settings.block_max_s,
    }


def look_at_gpu(turn: Turn, settings: Settings) -> None:
    """What a cell that has its times does to the GPU: power and clocks, then copies and compute.

    What goes wrong here is written into the row, which keeps its times and stays as good as it is.
    """
    try:
        with gpu_meters.sampler(turn.request.cell.device) as gpu:
            if gpu is not None:
                # Boards report power as a mean of up to a second, so it must not begin idle.
                turn.ask("load", seconds=settings.gpu_load_s / 2)
                gpu.begin()
                ran = turn.ask("load", seconds=settings.gpu_load_s)
                load = gpu_load(ran, gpu.end())
                turn.row = dataclasses.replace(turn.row, gpu=load)
        phases_s = turn.ask(
            "phases",
            warmup=settings.warmup,
            runs=settings.phase_runs,
            max_s=settings.block_max_s,
        )["phases_s"]
        if phases_s is not None:
            phases = {name: tuple(samples) for name, samples in phases_s.items()}
            turn.row = dataclasses.replace(turn.row, phases_s=phases)
    except ClipperfError as exc:
        turn.row = dataclasses.replace(turn.row, error=f"GPU figures missing: {exc}")


def gpu_load(ran: dict[str, Any], seen: Seen | None) -> GpuLoad | None:
    """The answer to "load" with what the sampler saw meanwhile; None where it saw nothing."""
    if seen is None:
        return None
    return GpuLoad(
        seconds=ran["seconds"],
        runs=ran["runs"],
        energy_j=seen.energy_j,
        energy_source=seen.energy_source,
        power_w=seen.power_w,
        sm_clock_mhz=seen.sm_clock_mhz,
        temperature_c=seen.temperature_c,
        throttle=seen.throttle,
        missing=seen.missing,
    )


# --- shared --------------------------------------------------------------------------------


def worker_of(
    request: EngineRequest, settings: Settings, look_s: float = SELDOM_S, alone: bool = True
) -> Worker:
    """A fresh process for one cell, or as many as it has instances; ends with its ``with`` block.

    What it takes is looked at every `look_s` seconds while it is waited for, and then; `alone` is
    whether no other worker is open meanwhile. See `limits`.

    Raises:
        ChildError: it cannot be started.
    """
    cell = request.cell
    guard = guard_of(settings.limits, cell.device, look_s, alone)

    def start(shown: dict[str, str]) -> Child:
        return Child(
            f"clipperf.bench.{'worker' if request.endpoint is None else 'endpoint_worker'}",
            threads=cell.threads,
            timeout_s=settings.timeout_s,
            env=child_environment(cell.threads) | shown if shown else None,
            remedy="raise --timeout, timeout_s of a sweep's plan, if the cell is that slow",
            guard=guard,
        )

    named = cell.device != REMOTE and ":" in cell.device
    if cell.instances == 1 and not named:
        return start({})
    crew = Crew(cell, start)
    if guard is not None:
        guard.pids = tuple(crew.pids)
    return crew


def failure(exc: ClipperfError) -> dict[str, Any]:
    """The fields of a row that say that it failed, and why."""
    status = "unsupported" if isinstance(exc, UnsupportedError) else "failed"
    said = exc.said if isinstance(exc, ChildError) else ""
    return {
        "status": status,
        "error": str(exc),
        "last_words": said or None,
        "ended": exc.ended if isinstance(exc, ChildError) else None,
    }


def largest(values: Sequence[int | None]) -> int | None:
    """The largest known value, or None where none is known."""
    return max((v for v in values if v is not None), default=None)
