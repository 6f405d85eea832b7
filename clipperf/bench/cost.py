"""The clock: the only module that times an engine, and the rule that says when to stop.

Times are seconds of `time.perf_counter`, a monotonic clock with sub-microsecond resolution.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from clipperf import stats
from clipperf.nouns.cell import Phases

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one pass over a cell may take; None for as much as there is.

    Seconds of the cell's own turns, bytes of RAM with all that its process has started, bytes of
    its GPU's memory.
    """

    seconds: float | None = None
    ram_bytes: int | None = None
    vram_bytes: int | None = None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Settings:
    """How long and how carefully to measure. Seconds.

    A cell is stable once it has `min_blocks` blocks, `min_runs` timed calls, `min_s` seconds of
    timed calls, and the 95 % interval of its median is at most `target_rel_width` of the median
    wide. A cell that is not there after `max_s` is reported as unstable; in closed loops also one
    whose interval is still too wide `patience_s` after all of its group have the rest. Each of
    these is a cell's share of the group's time. A block is a sleep of `sleep_s` (lets the thread
    pool of the engine that ran before fall asleep), `warmup` untimed calls, then timed calls: at
    least `block_calls` of them and `block_s` seconds, cut short after `block_max_s`. `timeout_s`
    limits every single step of a worker; `memory_runs` is the number of runs of the memory pass. On
    a GPU, `gpu_load_s` is how long a cell runs without pause while its power is read, and
    `phase_runs` how many runs are split into copies and compute. A pass over its `limits` is ended;
    see `bench.limits`.
    """

    min_runs: int = 30
    min_blocks: int = 8
    min_s: float = 3.0
    max_s: float = 60.0
    patience_s: float = 60.0
    target_rel_width: float = 0.05
    warmup: int = 2
    block_calls: int = 5
    block_s: float = 0.3
    block_max_s: float = 10.0
    sleep_s: float = 0.3
    timeout_s: float = 900.0
    memory_runs: int = 3
    gpu_load_s: float = 2.0
    phase_runs: int = 20
    limits: Limits = UNLIMITED


DEFAULT = Settings()
QUICK = Settings(
    min_runs=12,
    min_blocks=6,
    min_s=0.5,
    max_s=10.0,
    patience_s=3.0,
    target_rel_width=0.10,
    warmup=1,
    block_calls=3,
    block_s=0.1,
    block_max_s=3.0,
    sleep_s=0.1,
    timeout_s=300.0,
    memory_runs=2,
    gpu_load_s=1.0,
    phase_runs=10,
)
PRESETS = {"quick": QUICK, "default": DEFAULT}

MAX_BLOCK_CALLS = 200
"""Keeps the raw samples of a fast engine to a size that a result file can hold."""


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """Do something once; returns its value and the seconds it took."""
    start = time.perf_counter()
    value = action()
    return value, time.perf_counter() - start


def time_block(
    run: Callable[[np.ndarray], np.ndarray],
    inputs: np.ndarray,
    warmup: int,
    calls: int,
    min_s: float,
    max_s: float = float("inf"),
    sleep_s: float = 0.0,
    streams: int = 1,
) -> list[float]:
    """One block: sleep, warm-up, timed calls; returns the raw seconds of every timed call.

    Timed calls go on until there are `calls` of them and they took `min_s` seconds together,
    but end after `max_s` seconds or `MAX_BLOCK_CALLS` calls. There is always at least one.
    With several `streams` as many threads do all of that at once, each for itself.
    The cyclic garbage collector rests during the calls, as in `timeit`: a collection would be
    charged to whichever call it falls into.
    """
    if sleep_s > 0:
        time.sleep(sleep_s)
    start_together = threading.Barrier(streams)

    def one_stream() -> list[float]:
        try:
            for _ in range(warmup):
                run(inputs)
        except BaseException:
            start_together.abort()
            raise
        start_together.wait()
        samples: list[float] = []
        total = 0.0
        while not samples or (
            (len(samples) < calls or total < min_s)
            and total < max_s
            and len(samples) < MAX_BLOCK_CALLS
        ):
            start = time.perf_counter()
            run(inputs)
            samples.append(time.perf_counter() - start)
            total += samples[-1]
        return samples

    collecting = gc.isenabled()
    gc.disable()
    try:
        if streams == 1:
            return one_stream()
        with ThreadPoolExecutor(streams) as pool:
            tasks = [pool.submit(one_stream) for _ in range(streams)]
        failed = [exc for task in tasks if (exc := task.exception()) is not None]
        # What broke the barrier says more than that it is broken.
        for exc in sorted(failed, key=lambda exc: isinstance(exc, threading.BrokenBarrierError)):
            raise exc
        return [sample for task in tasks for sample in task.result()]
    finally:
        if collecting:
            gc.enable()


def time_fed(
    run: Callable[[np.ndarray], np.ndarray], ready: Iterable[np.ndarray]
) -> list[tuple[float, float]]:
    """Run every array of an iterator; the seconds that each was waited for, and ran."""
    samples = []
    start = time.perf_counter()
    for array in ready:
        there = time.perf_counter()
        run(array)
        end = time.perf_counter()
        samples.append((there - start, end - there))
        start = end
    return samples


def run_for(
    run: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, seconds: float, streams: int = 1
) -> tuple[int, float]:
    """Run without pause for at least so many seconds; returns the number of runs and the time.

    With several `streams` as many threads do so at once, and each of their runs counts.
    """
    elapsed_s = stopwatch()

    def one_stream() -> int:
        runs = 0
        while elapsed_s() < seconds or not runs:
            run(inputs)
            runs += 1
        return runs

    if streams == 1:
        return one_stream(), elapsed_s()
    with ThreadPoolExecutor(streams) as pool:
        tasks = [pool.submit(one_stream) for _ in range(streams)]
    return sum(task.result() for task in tasks), elapsed_s()


def time_phases(
    run: Callable[[np.ndarray], tuple[np.ndarray, Phases]],
    inputs: np.ndarray,
    warmup: int,
    runs: int,
    max_s: float,
) -> dict[str, list[float]]:
    """Seconds of each run by the GPU's events, and by the host's clock around the same run.

    Ends after `max_s` seconds of runs; there is always at least one.
    """
    for _ in range(warmup):
        run(inputs)
    samples: dict[str, list[float]] = {"h2d": [], "compute": [], "d2h": [], "host": []}
    while not samples["host"] or (len(samples["host"]) < runs and sum(samples["host"]) < max_s):
        (_, phases), host_s = timed(lambda: run(inputs))
        samples["h2d"].append(phases.h2d_s)
        samples["compute"].append(phases.compute_s)
        samples["d2h"].append(phases.d2h_s)
        samples["host"].append(host_s)
    return samples


def is_stable(samples: Sequence[float], blocks: int, settings: Settings) -> bool:
    """Whether a cell's raw samples, taken in so many blocks, settle its median."""
    return (
        is_enough(samples, blocks, settings)
        and stats.relative_width(samples) <= settings.target_rel_width
    )


def is_enough(samples: Sequence[float], blocks: int, settings: Settings) -> bool:
    """Whether so many samples and blocks may settle a median, however wide its interval is."""
    return (
        blocks >= settings.min_blocks
        and len(samples) >= settings.min_runs
        and sum(samples) >= settings.min_s
    )


def deadline(seconds: float) -> Callable[[], bool]:
    """A function that says whether so many seconds have passed since this call."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def stopwatch() -> Callable[[], float]:
    """A function that says how many seconds have passed since this call."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start
