"""The two passes over a group of cells: memory, then time. Each worker is a fresh process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clipperf.bench import cost, gpu_meters
from clipperf.bench.cost import Settings
from clipperf.bench.gpu_sampler import Seen
from clipperf.bench.inputs import CLIP_IDS, TextIds
from clipperf.bench.process import Worker, WorkerError
from clipperf.nouns.cell import EngineRequest
from clipperf.nouns.result import Environment, GpuLoad, Measurement
from clipperf.serialize import to_json

# --- memory --------------------------------------------------------------------------------


def memory_pass(
    request: EngineRequest, settings: Settings, env: Environment, text_ids: TextIds = CLIP_IDS
) -> Measurement:
    """Load and run one cell in a fresh process; returns its RAM and VRAM high-water marks."""
    found: dict[str, Any] = {}
    # The sampler comes first: it notes what the GPU holds without the worker.
    with gpu_meters.sampler(request.cell.device) as gpu, workers() as start:
        try:
            worker = start(request, settings)
            if gpu is not None:
                gpu.begin(worker.pid)
            found["rss_bare_bytes"] = worker.greet()["rss_bare_bytes"]
            opened = worker.ask("open", **opening(request, text_ids))
            found["rss_load_peak_bytes"] = opened["rss_load_peak_bytes"]
            found["rss_source"] = opened["rss_source"]
            found["provider"] = opened["provider"]
            ran = worker.ask("memory", runs=settings.memory_runs)
            found["rss_run_peak_bytes"] = ran["rss_run_peak_bytes"]
            if gpu_meters.gpu_of(request.cell.device) is not None:
                found["vram_allocated_bytes"] = ran["vram_allocated_bytes"]
        except WorkerError as exc:
            found.update(status=exc.status, error=str(exc))
        seen = None if gpu is None else gpu.end()
    found.update(vram_peak(seen, found.get("vram_allocated_bytes")))
    found["rss_peak_bytes"] = largest(
        [found.get("rss_load_peak_bytes"), found.get("rss_run_peak_bytes")]
    )
    return dataclasses.replace(blank(request, "memory", env), **found)


def vram_peak(seen: Seen | None, allocated_bytes: int | None) -> dict[str, Any]:
    """The VRAM peak and its source: NVML's, else the runtime's own, else nothing."""
    if seen is not None and seen.vram_peak_bytes is not None:
        return {"vram_peak_bytes": seen.vram_peak_bytes, "vram_source": seen.vram_source}
    source = None if allocated_bytes is None else "allocator"
    return {"vram_peak_bytes": allocated_bytes, "vram_source": source}


# --- time ----------------------------------------------------------------------------------


@dataclass
class Runner:
    """One cell of a running time pass."""

    request: EngineRequest
    row: Measurement
    worker: Worker | None = None

    def fail(self, exc: WorkerError) -> None:
        """Turn into a failed row that keeps what was measured before."""
        self.row = dataclasses.replace(self.row, status=exc.status, error=str(exc))
        if self.worker is not None:
            self.worker.end()

    def add_block(self, number: int, samples: Sequence[float], settings: Settings) -> None:
        """Append one block's raw samples and judge again whether the median has settled."""
        run_s = (*self.row.run_s, *samples)
        blocks = (*self.row.blocks, *([number] * len(samples)))
        stable = cost.is_stable(run_s, len(set(blocks)), settings)
        self.row = dataclasses.replace(self.row, run_s=run_s, blocks=blocks, stable=stable)


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
    runners = [Runner(r, dataclasses.replace(blank(r, "time", env), group=group)) for r in requests]
    with workers() as start:
        for runner in runners:
            try:
                runner.worker = start(runner.request, settings)
                open_for_time(runner, text_ids)
            except WorkerError as exc:
                runner.fail(exc)
        over = cost.deadline(settings.max_s * len(runners))
        number = 0
        while live := [r for r in runners if r.row.status == "ok"]:
            if all(r.row.stable for r in live) or over():
                break
            turn = number % len(live)
            for runner in live[turn:] + live[:turn]:
                assert runner.worker is not None
                try:
                    samples = runner.worker.ask("block", **block_command(settings))["samples"]
                    runner.add_block(number, samples, settings)
                except WorkerError as exc:
                    runner.fail(exc)
            number += 1
        for runner in runners:
            if runner.row.status == "ok" and gpu_meters.gpu_of(runner.request.cell.device):
                look_at_gpu(runner, settings)
    return [runner.row for runner in runners]


def open_for_time(runner: Runner, text_ids: TextIds) -> None:
    """Load the engine and run it once; both seconds go into the row."""
    worker = runner.worker
    assert worker is not None
    worker.greet()
    opened = worker.ask("open", **opening(runner.request, text_ids))
    runner.row = dataclasses.replace(
        runner.row, load_s=opened["load_s"], provider=opened["provider"]
    )
    first_run_s = worker.ask("first")["first_run_s"]
    runner.row = dataclasses.replace(runner.row, first_run_s=first_run_s, stable=False)


def block_command(settings: Settings) -> dict[str, Any]:
    """The fields of a "block" command."""
    return {
        "sleep_s": settings.sleep_s,
        "warmup": settings.warmup,
        "calls": settings.block_calls,
        "min_s": settings.block_s,
        "max_s": settings.block_max_s,
    }


def look_at_gpu(runner: Runner, settings: Settings) -> None:
    """What a cell that has its times does to the GPU: power and clocks, then copies and compute.

    What goes wrong here is written into the row, which keeps its times and stays as good as it is.
    """
    worker = runner.worker
    assert worker is not None
    try:
        with gpu_meters.sampler(runner.request.cell.device) as gpu:
            if gpu is not None:
                # Boards report power as a mean of up to a second, so it must not begin idle.
                worker.ask("load", seconds=settings.gpu_load_s / 2)
                gpu.begin()
                ran = worker.ask("load", seconds=settings.gpu_load_s)
                load = gpu_load(ran, gpu.end())
                runner.row = dataclasses.replace(runner.row, gpu=load)
        phases_s = worker.ask(
            "phases",
            warmup=settings.warmup,
            runs=settings.phase_runs,
            max_s=settings.block_max_s,
        )["phases_s"]
        if phases_s is not None:
            phases = {name: tuple(samples) for name, samples in phases_s.items()}
            runner.row = dataclasses.replace(runner.row, phases_s=phases)
    except WorkerError as exc:
        runner.row = dataclasses.replace(runner.row, error=f"GPU figures missing: {exc}")


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
    )


# --- shared --------------------------------------------------------------------------------


@contextlib.contextmanager
def workers() -> Iterator[Callable[[EngineRequest, Settings], Worker]]:
    """A function that starts workers; all are ended on the way out, killed on any error."""
    started: list[Worker] = []

    def start(request: EngineRequest, settings: Settings) -> Worker:
        worker = Worker(request.cell.threads, settings.timeout_s)
        started.append(worker)
        return worker

    try:
        yield start
    except BaseException:
        for worker in started:
            worker.kill()
        raise
    finally:
        for worker in started:
            worker.end()


def opening(request: EngineRequest, text_ids: TextIds) -> dict[str, Any]:
    """The fields of an "open" command."""
    return {"request": to_json(request), "text_ids": to_json(text_ids)}


def blank(request: EngineRequest, kind: Literal["time", "memory"], env: Environment) -> Measurement:
    """A row with nothing measured yet."""
    return Measurement(
        cell=request.cell,
        kind=kind,
        status="ok",
        env_id=env.id,
        random_weights=request.spec.random_weights,
    )


def largest(values: Sequence[int | None]) -> int | None:
    """The largest known value, or None where none is known."""
    return max((v for v in values if v is not None), default=None)
