"""Placing replicas of one or two towers on equal machines. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """One tower's replicas: what each takes of a machine, and how many there are.

    `need` is the number of replicas before rounding up, spare ones as whole ones; `latency_s` is
    that of one batch. A machine runs `most` of them at most, None as many as fit.
    """

    threads: int
    ram_bytes: int
    vram_bytes: int
    gpu: bool
    replicas: int
    need: float
    latency_s: float
    most: int | None = None


@dataclass(frozen=True)
class Machine:
    """What one machine offers; None is no limit. It has one GPU at most."""

    cores: int | None
    ram_bytes: int | None
    vram_bytes: int | None

    def holds(self, loads: Sequence[Load], counts: Sequence[int]) -> bool:
        """Whether so many replicas of each load fit by cores, RAM, VRAM and GPU."""
        placed = list(zip(loads, counts, strict=True))
        totals = (
            (sum(n * load.threads for load, n in placed), self.cores),
            (sum(n * load.ram_bytes for load, n in placed), self.ram_bytes),
            (sum(n * load.vram_bytes for load, n in placed), self.vram_bytes),
        )
        return (
            all(limit is None or used <= limit for used, limit in totals)
            and all(n <= 1 for load, n in placed if load.gpu)
            and all(load.most is None or n <= load.most for load, n in placed)
        )

    def capacity(self, load: Load) -> int | None:
        """How many replicas of one load fit; None where nothing known limits them."""
        limits = []
        if self.cores is not None:
            limits.append(self.cores // load.threads)
        if load.most is not None:
            limits.append(load.most)
        if self.ram_bytes is not None and load.ram_bytes:
            limits.append(self.ram_bytes // load.ram_bytes)
        if load.gpu:
            # A second replica on the same GPU takes turns with the first: no more throughput.
            limits.append(1)
            if self.vram_bytes is not None and load.vram_bytes:
                limits.append(self.vram_bytes // load.vram_bytes)
        return min(limits, default=None)


Filled = list[tuple[int, tuple[int, ...]]]
"""Number of equal machines, and the replicas of each load on every one of them."""


def pack(loads: Sequence[Load], machine: Machine, slo_s: float | None = None) -> Filled:
    """Place one load as densely as it fits and let the other fill the gaps first.

    Both orders are tried; the one with fewer machines is returned, the first in a tie. Every load
    must fit a machine at least once.
    """
    if len(loads) == 1:
        return [(number, (count,)) for number, count in _dense(loads[0], machine)]
    first, second = loads
    straight = _filled(first, second, machine, slo_s)
    turned: Filled = [(n, (b, a)) for n, (a, b) in _filled(second, first, machine, slo_s)]
    return min([straight, turned], key=lambda filled: sum(n for n, _ in filled))


def _dense(load: Load, machine: Machine) -> list[tuple[int, int]]:
    """(machines, replicas on each) for one load; the last machine apart if it is not full."""
    capacity = machine.capacity(load)
    fits = load.replicas if capacity is None else min(capacity, load.replicas)
    full, rest = divmod(load.replicas, fits)
    if load.gpu and rest == 0:
        # The last GPU is not busy all the time: it may take the other tower's rest as well.
        full, rest = full - 1, fits
    return [(n, count) for n, count in ((full, fits), (1, rest)) if n and count]


def _filled(first: Load, second: Load, machine: Machine, slo_s: float | None) -> Filled:
    filled: Filled = []
    left = second.replicas
    groups = _dense(first, machine)
    for i, (number, count) in enumerate(groups):
        last = i == len(groups) - 1
        gap = _gap(first, second, count, machine, left)
        if first.gpu and second.gpu and not (last and _gpu_shared(first, second, slo_s)):
            gap = 0
        whole = min(number, left // gap) if gap else 0
        if whole:
            filled.append((whole, (count, gap)))
        left -= whole * gap
        if gap and left and whole < number:
            filled.append((1, (count, left)))
            whole, left = whole + 1, 0
        if whole < number:
            filled.append((number - whole, (count, 0)))
    if left:
        rest = dataclasses.replace(second, replicas=left)
        filled += [(number, (0, count)) for number, count in _dense(rest, machine)]
    return filled


def _gap(first: Load, second: Load, count: int, machine: Machine, at_most: int) -> int:
    """How many replicas of `second` fit beside `count` of `first`."""
    low, high = 0, at_most
    while low < high:
        middle = (low + high + 1) // 2
        if machine.holds((first, second), (count, middle)):
            low = middle
        else:
            high = middle - 1
    return low


def _gpu_shared(first: Load, second: Load, slo_s: float | None) -> bool:
    """Whether the last replicas of two towers can take turns on one GPU.

    Together they must be busy for no more than all of the time. A batch may then wait for one of
    the other tower, so their latencies together must meet the SLO.
    """
    busy = sum(max(0.0, load.need - (load.replicas - 1)) for load in (first, second))
    waits = first.latency_s + second.latency_s
    return busy <= 1 and (slo_s is None or waits <= slo_s)
