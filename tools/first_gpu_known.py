"""Phases and VRAM held against costs that are known before: a stage of `first_gpu_run`.

What a run moves is the bytes of its input and output, at the rate that the same CUDA calls reach on
their own; what it computes takes no less than its arithmetic at the measured rate of products; what
it holds of the GPU is its weights, its workspace and its buffers. A figure that does not fit is
named: either the meter is wrong, or the engine does what nobody knows of.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from first_gpu_base import COMPILED, Data, Keep, Skipped, Wrong, exported, model, sized, usable

if TYPE_CHECKING:
    from clipperf.bench.gpu_figures import Seen
    from clipperf.engines.tensorrt.cuda import Cuda
    from clipperf.nouns.cell import EngineRequest
    from clipperf.nouns.model import ModelSpec
    from clipperf.nouns.variant import Side

SIDE: Side = "image"
SIZES = sized((1, 32), (1, 8))
RUNS = 15
PIECE = 4 << 20
FIXED_S = 200e-6
"""What starting copies and kernels may take beside what they move, and events cannot resolve."""
COPY = (0.5, 2.0)
"""How far a copy may be from its bytes at the measured rate: bounds of the ratio."""
WHOLE = (0.6, 1.1)
"""Bounds of all phases together over the whole run by the clock, which sees Python as well."""
FASTEST = 0.9
"""No tower computes faster than its arithmetic at the rate of large products, but for noise."""
LEAST_VRAM, MOST_VRAM = 0.9, 1.1
CODE_BYTES = 256 << 20
"""Kernels and handles, which libraries load beside what they account for."""


@dataclass(frozen=True)
class Subject:
    """An engine to look at: what it is given, its weights' bytes, and one input's arithmetic."""

    name: str
    engine: Any
    given: Callable[[int], np.ndarray]
    weights_bytes: int
    flop: float
    held_before: Seen


def known(device: str, keep: Keep) -> Data:
    """Every runtime that tells its phases, in fp16, against bytes, arithmetic and weights."""
    from clipperf.engines.tensorrt import cuda as cuda_driver

    if device == "cpu":
        raise Skipped("a CPU copies nothing, and has no VRAM")
    rows: list[Data] = []
    with vram(device) as held:  # before CUDA is there; see `first_gpu_costs.memory`
        cuda = cuda_driver.open_cuda()
        rate = product_flop_per_s()
        for subject in subjects(device, held):
            for size in SIZES:
                rows.append(compared(subject, size, cuda, rate))
            rows[-1] |= held_against(subject, held(), rows[-1]["wrong"])
            keep({"known": rows})
    if not rows:
        raise Skipped("no usable runtime tells its phases")
    data: Data = {"known": rows, "flop_per_s": rate}
    bad = [f"{row['runtime']} batch {row['batch']}: {one}" for row in rows for one in row["wrong"]]
    if bad:
        raise Wrong("; ".join(bad)[:900], data)
    return data


def clock() -> float:
    """The host's seconds."""
    return time.perf_counter()


def compared(subject: Subject, size: int, cuda: Cuda, flop_per_s: float) -> Data:
    """One batch's phases, what was known of them before, and what does not fit."""
    array = subject.given(size)
    engine = subject.engine
    for _ in range(3):  # plain, captured, replayed
        output = engine.run(array)
    phases = [engine.run_phases(array)[1] for _ in range(RUNS)]
    walls = []
    for _ in range(RUNS):
        start = clock()
        engine.run(array)
        walls.append(clock() - start)
    found = {
        name: statistics.median(getattr(one, f"{name}_s") for one in phases)
        for name in ("h2d", "compute", "d2h")
    }
    # The bytes that really go out may be half as many: a tower in fp16 may give halves.
    before = {
        "h2d": copy_s(cuda, array.nbytes, inward=True),
        "compute": size * subject.flop / flop_per_s,
        "d2h": copy_s(cuda, output.nbytes, inward=False),
    }
    wall_s = statistics.median(walls)
    return {
        "runtime": subject.name,
        "batch": size,
        "found_ms": milliseconds(found),
        "known_ms": milliseconds(before),
        "wall_ms": round(1e3 * wall_s, 4),
        "wrong": misfits(found, before, wall_s),
    }


def misfits(found: dict[str, float], before: dict[str, float], wall_s: float) -> list[str]:
    """What of the phases' seconds does not fit to what was known, in words."""
    wrong = []
    for name in ("h2d", "d2h"):
        low, high = (ratio * before[name] for ratio in COPY)
        if not low / (2 if name == "d2h" else 1) - FIXED_S <= found[name] <= high + FIXED_S:
            wrong.append(
                f"{name} took {1e3 * found[name]:.3f} ms, its bytes take {1e3 * before[name]:.3f}"
            )
    if found["compute"] < FASTEST * before["compute"]:
        wrong.append(
            f"compute took {1e3 * found['compute']:.3f} ms, its arithmetic takes "
            f"{1e3 * before['compute']:.3f} at the rate of large products"
        )
    whole = sum(found.values())
    if not WHOLE[0] * wall_s - FIXED_S <= whole <= WHOLE[1] * wall_s + FIXED_S:
        wrong.append(f"all phases are {1e3 * whole:.3f} ms of a run of {1e3 * wall_s:.3f}")
    return wrong


def held_against(subject: Subject, held: Seen, wrong: list[str]) -> Data:
    """What the meter saw a runtime take, against its weights and its own account of the rest.

    What does not fit is put behind what is `wrong` already. What the whole device holds more is
    kept beside it, which no other program may change meanwhile.
    """
    before, account = subject.held_before, int(subject.engine.allocated_bytes())
    grown = (held.vram_peak_bytes or 0) - (before.vram_peak_bytes or 0)
    row: Data = {
        "weights_bytes": subject.weights_bytes,
        "allocated_bytes": account,
        "seen_bytes": grown,
        "source": held.vram_source,
        "device_bytes": None,
        "wrong": [*wrong],
    }
    if held.vram_device_bytes is not None and before.vram_device_bytes is not None:
        row["device_bytes"] = held.vram_device_bytes - before.vram_device_bytes
    if account < LEAST_VRAM * subject.weights_bytes:
        row["wrong"].append(
            f"holds {mib(account)} MiB with weights of {mib(subject.weights_bytes)}"
        )
    low, high = LEAST_VRAM * account, MOST_VRAM * account + CODE_BYTES
    if not low <= grown <= high:
        row["wrong"].append(
            f"the meter saw {mib(grown)} MiB of weights, workspace and buffers of {mib(account)}"
        )
    return row


def mib(size: float) -> int:
    """Whole MiB."""
    return round(size / 2**20)


def milliseconds(seconds: dict[str, float]) -> Data:
    """The same in ms, to print."""
    return {name: round(1e3 * value, 4) for name, value in seconds.items()}


def copy_s(cuda: Cuda, size: int, *, inward: bool) -> float:
    """The median of copying bytes between pinned memory and the GPU, by the GPU's events.

    Inward they are put into the pinned memory first, in pieces, as engines do.
    """
    source = np.zeros(size, np.uint8)
    held, pinned, stream = cuda.device_alloc(size), cuda.host_alloc(size), cuda.stream()
    marks = [cuda.event(), cuda.event()]
    taken = []
    try:
        for _ in range(RUNS):
            cuda.record(marks[0], stream)
            for start in range(0, size if inward else 0, PIECE):
                piece = pinned[start : min(start + PIECE, size)]
                piece[:] = source[start : start + piece.size]
                cuda.to_device(int(held) + start, piece, stream)
            if not inward:
                cuda.to_host(pinned, int(held), stream)
            cuda.record(marks[1], stream)
            cuda.synchronize(stream)
            taken.append(cuda.elapsed_s(*marks))
    finally:
        cuda.stream_free(stream)
        cuda.host_free(pinned)
        cuda.device_free(held)
        for mark in marks:
            cuda.event_free(mark)
    return statistics.median(taken)


# --- on a real GPU -------------------------------------------------------------------------


def product_flop_per_s() -> float:
    """The rate of large products in fp16."""
    import torch

    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    times = []
    for _ in range(12):
        torch.cuda.synchronize()
        start = clock()
        a @ b
        torch.cuda.synchronize()
        times.append(clock() - start)
    del a, b
    torch.cuda.empty_cache()
    return 2 * size**3 / statistics.median(times[2:])


@contextlib.contextmanager
def vram(device: str) -> Iterator[Callable[[], Seen]]:
    """What this process and the device hold of the GPU by NVML, whenever it is asked."""
    from clipperf.bench import gpu_meters

    with gpu_meters.sampler(device) as sampler:
        if sampler is None:
            raise Wrong("NVML's sampler did not start")

        def held() -> Seen:
            sampler.begin(os.getpid())
            time.sleep(0.5)
            seen = sampler.end()
            if seen is None or seen.vram_peak_bytes is None:
                raise Wrong("the sampler saw no memory")
            return seen

        yield held


def subjects(device: str, held: Callable[[], Seen]) -> Iterator[Subject]:
    """Usable runtimes that tell phases, one after the other; torch, which keeps memory, last."""
    from clipperf.engines import contract

    spec = model()
    parameters, flop = arithmetic(spec)
    names = [name for name in usable(device) if name not in COMPILED]
    for name in sorted(names, key=lambda name: name == "torch"):
        if "fp16" not in contract.get(name).precisions:
            continue
        path, key = exported(spec, SIDE, name, "fp16")

        asked = partial(request_of, spec, name, device, path, key)
        before = held()
        engine: Any = contract.get(name).open(asked(max(SIZES)))
        with contextlib.closing(engine):
            if hasattr(engine, "run_phases") and hasattr(engine, "allocated_bytes"):
                given = partial(inputs_of, asked)
                yield Subject(name, engine, given, 2 * parameters, flop, before)


def request_of(
    spec: ModelSpec, name: str, device: str, path: str | None, key: str, rows: int
) -> EngineRequest:
    """What opens a runtime's tower for a batch."""
    from clipperf.nouns.cell import Cell, EngineRequest
    from clipperf.system import env, store

    cell = Cell(spec.id, SIDE, name, "fp16", device, rows, env.available_cores())
    return EngineRequest(cell, spec, path, key=key, cache_folder=str(store.cache_folder()))


def inputs_of(asked: Callable[[int], EngineRequest], rows: int) -> np.ndarray:
    """A batch of as many images as it is asked for."""
    from clipperf.bench.inputs import make_inputs

    return make_inputs(asked(rows))


def arithmetic(spec: ModelSpec) -> tuple[int, float]:
    """The image tower's parameters, and the operations of one input (two for a product and sum)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from clipperf.models.family import family_of

    tower: Any = family_of(spec).build(spec, SIDE, False).module
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        tower(torch.zeros(1, 3, spec.image_px, spec.image_px))
    return sum(p.numel() for p in tower.parameters()), float(counter.get_total_flops())
