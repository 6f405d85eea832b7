"""One tower's configuration against the targets: the limits, and how many replicas it takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from clipperf import units
from clipperf.report.records import Row
from clipperf.report.serving import Line
from clipperf.report.sizing.held import held_by, service_at
from clipperf.report.sizing.packing import Load, Machine
from clipperf.report.sizing.quality import Judge
from clipperf.report.sizing.queueing import LEAST_LOAD, expected
from clipperf.report.sizing.types import Option, Targets

FULL = 1 - 1e-9
"""Keeps 70 / (100 x 0.7) at one replica, whatever binary fractions make of it."""


def options_of(
    rows: Sequence[Row],
    lines: Sequence[Line],
    targets: Targets,
    machines: dict[str, Machine],
    judge: Judge | None,
) -> list[Option]:
    """Every configuration against the targets; `machines` are those of the environments."""
    found = [
        _limited(option, problems, targets, machines[option.env_id], judge)
        for option, problems in held_by(rows, lines, targets)
    ]
    return [_with_expected(option, rows, targets) for option in found]


def _limited(
    option: Option,
    problems: Sequence[str],
    targets: Targets,
    machine: Machine,
    judge: Judge | None,
) -> Option:
    """Fill in the replicas, or the limits that the option breaks."""
    if judge is not None:
        option = dataclasses.replace(option, quality=judge.of(option.cell))
    broken = list(problems)
    if option.held_per_s is None and option.rate_per_s is None and not broken:
        broken.append("not timed: only a memory pass is stored")
    broken += _slo(option, targets)
    broken += _over("RAM", option.rss_peak_bytes, machine.ram_bytes, targets.ram_bytes)
    if not option.cell.device.startswith("cpu"):
        broken += _over("VRAM", option.vram_peak_bytes, machine.vram_bytes, targets.vram_bytes)
    if targets.disk_bytes is not None:
        disk = targets.disk_bytes
        broken += _over("disk", option.disk_bytes, disk, disk, "the tower takes")
    if machine.cores is not None and option.cell.threads > machine.cores:
        more = option.cell.threads - machine.cores
        broken.append(
            f"cores: {option.cell.threads} threads are {more} more than the machine's "
            f"{machine.cores}"
        )
    if judge is not None:
        broken += judge.broken(option.quality)
    if broken or option.held_per_s is None:
        return dataclasses.replace(option, broken=tuple(broken))
    return _counted(option, targets, machine)


def _slo(option: Option, targets: Targets) -> list[str]:
    slo_s, latency_s = targets.slo_s, option.latency_s
    if slo_s is None:
        return []
    if option.basis != "server scenario" and latency_s is not None and latency_s > slo_s:
        return [
            f"SLO: {option.latency_quantile} {units.seconds(latency_s)} is "
            f"{units.seconds(latency_s - slo_s)} over {units.seconds(slo_s)}"
        ]
    if option.basis == "queueing estimate" and option.held_per_s is None:
        return [
            f"SLO: by the queueing estimate {percentile(targets)} is over {units.seconds(slo_s)} "
            f"even at {units.share(LEAST_LOAD)} of its rate"
        ]
    return []


def percentile(targets: Targets) -> str:
    """The SLO's percentile as people say it: "p99"."""
    return f"p{100 * targets.percentile:g}"


def _over(
    name: str, needed: int | None, has: int | None, asked: int | None, who: str = ""
) -> list[str]:
    if needed is None:
        unknown = f"{name}: not measured, so the budget cannot be checked"
        return [unknown] if asked is not None else []
    if has is None or needed <= has:
        return []
    return [
        f"{name}: {who or 'one replica peaks at'} {units.size(needed)}, "
        f"{units.size(needed - has)} over {units.size(has)}"
    ]


def _counted(option: Option, targets: Targets, machine: Machine) -> Option:
    assert option.held_per_s is not None
    target = targets.of(option.cell.side)

    def needed(held: float) -> float:
        return target / (held * targets.utilisation)

    load = needed(option.held_per_s)
    replicas = max(1, math.ceil(load * FULL))
    span: tuple[int, ...] | None = None
    if option.held_interval is not None and option.held_interval[0] > 0:
        low, high = option.held_interval
        span = tuple(max(1, math.ceil(needed(end) * FULL)) + targets.spare for end in (high, low))
    counted = dataclasses.replace(
        option,
        load=load,
        replicas=replicas + targets.spare,
        replicas_interval=None if span is None else (span[0], span[1]),
    )
    return dataclasses.replace(counted, per_machine=machine.capacity(load_of(counted)))


def load_of(option: Option) -> Load:
    """What one replica takes of a machine."""
    return Load(
        threads=option.cell.threads,
        ram_bytes=option.rss_peak_bytes or 0,
        vram_bytes=option.vram_peak_bytes or 0,
        gpu=not option.cell.device.startswith("cpu"),
        replicas=option.replicas or 0,
        need=option.load or 0.0,
        latency_s=option.expected_s or option.latency_s or 0.0,
    )


def _with_expected(option: Option, rows: Sequence[Row], targets: Targets) -> Option:
    """An estimate with the latency and the share of busy time at its planned load.

    The load is spread evenly over all replicas but the spare ones, and over their streams.
    """
    if option.basis != "queueing estimate" or option.replicas is None:
        return option
    row = next(r for r in rows if (r.env_id, r.cell) == (option.env_id, option.cell))
    service, _ = service_at(row, rows)
    engines = (option.replicas - targets.spare) * option.cell.streams
    found = expected(service, targets.of(option.cell.side) / engines, targets.percentile)
    if found is None:
        return option
    return dataclasses.replace(option, expected_s=found.latency_s, busy=found.busy)
