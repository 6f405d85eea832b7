"""One tower's configuration against the targets: the limits, and how many replicas it takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from clipperf import units
from clipperf.nouns.serving import SERVER
from clipperf.report.pairs import alike
from clipperf.report.records import Row
from clipperf.report.serving import Line
from clipperf.report.sizing.held import held_by
from clipperf.report.sizing.packing import Load, Machine
from clipperf.report.sizing.quality import Judge
from clipperf.report.sizing.queueing import LARGEST_RUN, LEAST_LOAD, expected
from clipperf.report.sizing.service import Harnesses, service_at
from clipperf.report.sizing.types import Option, Targets, percentile

FULL = 1 - 1e-9
"""Keeps 70 / (100 x 0.7) at one replica, whatever binary fractions make of it."""


def options_of(
    rows: Sequence[Row],
    lines: Sequence[Line],
    targets: Targets,
    machines: dict[str, Machine],
    judge: Judge | None,
    costs: Harnesses,
) -> list[Option]:
    """Every configuration against the targets; `machines` are those of the environments, `costs`
    those of the harnesses."""
    several = [row for row in rows if row.cell.instances > 1 and row.items_per_s is not None]
    side_by_side = {key for row in several for key in (_but_instances(row), _any_batch(row))}
    found = []
    for option, problems in held_by(rows, lines, targets, costs):
        machine = machines[option.env_id]
        served = option.cell.scenario == SERVER
        if (_any_batch(option) if served else _but_instances(option)) in side_by_side:
            option = _measured_together(option, machine)
        found.append(_limited(option, problems, targets, machine, judge))
    return [_with_expected(option, rows, targets) for option in found]


def _but_instances(row: Row | Option) -> tuple:
    """What rows have in common that differ in how many instances ran side by side alone, and in
    how calls came: a machine's cores are shared out all the same."""
    return (row.env_id, alike(row.cell, "instances", "scenario"))


def _any_batch(row: Row | Option) -> tuple:
    """As `_but_instances`, of batches that follow from how inputs come: a server's."""
    return (row.env_id, "any batch", alike(row.cell, "instances", "scenario", "batch"))


def _measured_together(option: Option, machine: Machine) -> Option:
    """The option as a machine's only one of its tower; its cores are those that it had, at most
    the machine's, which its instances shared while they were measured."""
    cores = option.cell.threads * option.cell.instances
    if option.cell.instances > 1 and machine.cores is not None:
        cores = min(cores, machine.cores)
    return dataclasses.replace(option, cores=cores, alone=True)


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
    driven = option.basis in ("closed loop", "as driven")
    if driven and latency_s is not None and latency_s > slo_s:
        return [
            f"SLO: {option.latency_quantile} {units.seconds(latency_s)} is "
            f"{units.seconds(latency_s - slo_s)} over {units.seconds(slo_s)}"
        ]
    if option.basis == "queueing estimate" and option.held_per_s is None:
        if option.cell.batch > LARGEST_RUN:
            return [
                f"SLO: the queueing estimate looks at batches of up to {LARGEST_RUN}: run "
                f"`clipperf profile --scenario server --slo-ms {1e3 * slo_s:g}`"
            ]
        return [
            f"SLO: by the queueing estimate {percentile(targets)} is over {units.seconds(slo_s)} "
            f"even at {units.share(LEAST_LOAD)} of its rate"
        ]
    return []


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

    def replicas(held: float) -> int:
        return max(1, math.ceil(needed(held, target, targets) * FULL)) + targets.spare

    span: tuple[int, int | None] | None = None
    if option.held_interval is not None:
        low, high = option.held_interval
        span = replicas(high), replicas(low) if low > 0 else None
    counted = dataclasses.replace(
        option,
        load=needed(option.held_per_s, target, targets),
        replicas=replicas(option.held_per_s),
        replicas_interval=span,
    )
    return dataclasses.replace(counted, per_machine=machine.capacity(load_of(counted)))


def needed(held_per_s: float, target_per_s: float, targets: Targets) -> float:
    """How many replicas that hold so much a target takes, before rounding up, without spares."""
    return target_per_s / (held_per_s * targets.utilisation)


def load_of(option: Option, spare: int = 0) -> Load:
    """What one replica takes of a machine; `spare` of the replicas are needed for no load."""
    return Load(
        threads=option.cores or option.cell.threads,
        ram_bytes=option.rss_peak_bytes or 0,
        vram_bytes=option.vram_peak_bytes or 0,
        gpu=not option.cell.device.startswith("cpu"),
        replicas=option.replicas or 0,
        need=(option.load or 0.0) + spare,
        latency_s=option.expected_s or option.latency_s or 0.0,
        most=1 if option.alone else None,
    )


def _with_expected(option: Option, rows: Sequence[Row], targets: Targets) -> Option:
    """An estimate with the latency and the share of busy time at its planned load.

    The load is spread evenly over all replicas but the spare ones, and over their instances and
    streams.
    """
    if option.basis != "queueing estimate" or option.replicas is None:
        return option
    row = next(r for r in rows if (r.env_id, r.cell) == (option.env_id, option.cell))
    service, _ = service_at(row, rows, option.harness_s)
    engines = (option.replicas - targets.spare) * option.cell.engines
    found = expected(service, targets.of(option.cell.side) / engines, targets.percentile)
    if found is None:
        return option
    return dataclasses.replace(option, expected_s=found.latency_s, busy=found.busy)
