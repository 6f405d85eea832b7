"""How many machines a target load needs, from stored rows; nothing is measured here.

Per tower: a replica is one process as it was measured (its threads, its peak RAM). Replicas =
ceil(target / (rate x utilisation)). Per model: the image and the text tower may run in different
configurations, because any of them gives embeddings of the same space, but never in different
models. Machines are of the kind that was measured, so a plan never crosses environments.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from clipperf import units
from clipperf.errors import UsageError
from clipperf.nouns.result import Environment, ResultFile
from clipperf.nouns.variant import SIDES
from clipperf.report.pairs import alike
from clipperf.report.records import Row, cell_order, environments, merge, merge_scores
from clipperf.report.sizing.notes import assumptions, with_notes
from clipperf.report.sizing.packing import Load, Machine, pack
from clipperf.report.sizing.types import Deployment, Option, Sizing, Targets, check


def size(results: Sequence[ResultFile], targets: Targets) -> Sizing:
    """Size every model of the result files for the targets.

    Raises:
        UsageError: the targets make no sense, or there are no measurements.
    """
    check(targets)
    rows = longest_texts([r for r in merge(results) if targets.of(r.cell.side) > 0])
    if not rows:
        raise UsageError("no measurements to size from: run `clipperf profile MODEL` first")
    known = environments(results)
    options = [_option(row, targets, machine_of(known[row.env_id][1], targets)) for row in rows]
    passing = [o for o in options if not o.broken]
    plans: list[Deployment] = []
    unmet: list[str] = []
    for env_id, model_id in dict.fromkeys((o.env_id, o.cell.model_id) for o in options):
        mine = [o for o in passing if (o.env_id, o.cell.model_id) == (env_id, model_id)]
        plan = _cheapest(mine, targets, machine_of(known[env_id][1], targets))
        if plan is not None:
            plans.append(plan)
        else:
            sides = {o.cell.side for o in mine}
            missing = [s for s in SIDES if targets.of(s) > 0 and s not in sides]
            where = f" ({known[env_id][0]})" if len(known) > 1 else ""
            unmet.append(f"{model_id}{where}: no {' and no '.join(missing)} configuration passes.")
    plans, scores = _ranked(plans, list(known)), merge_scores(results)
    return Sizing(
        targets=targets,
        plans=tuple(with_notes(p, targets, scores) for p in plans),
        options=tuple(passing),
        rejected=tuple(o for o in options if o.broken),
        unmet=tuple(unmet),
        assumptions=tuple(assumptions(targets, options)),
    )


def machine_of(environment: Environment | None, targets: Targets) -> Machine:
    """One machine: the measured one's cores, and the budgets given or else its memory."""
    return Machine(
        cores=environment.cores if environment else None,
        ram_bytes=targets.ram_bytes or (environment.ram_bytes if environment else None),
        vram_bytes=targets.vram_bytes or (environment.vram_bytes if environment else None),
    )


def longest_texts(rows: Sequence[Row]) -> list[Row]:
    """Of each configuration the row with the longest texts: shorter ones would flatter it."""
    longest: dict[tuple, Row] = {}
    for row in rows:
        c = row.cell
        key = (row.env_id, alike(c, "tokens"))
        if key not in longest or (c.tokens or 0) > (longest[key].cell.tokens or 0):
            longest[key] = row
    return list(longest.values())


# --- one tower -----------------------------------------------------------------------------


def tail_latency(row: Row) -> tuple[float | None, str | None]:
    """The highest latency quantile that enough calls back, else the slowest call, and its name."""
    for name, value in (("p99", row.p99_s), ("p95", row.p95_s), ("p90", row.p90_s)):
        if value is not None:
            return value, name
    return (row.max_s, "max") if row.max_s is not None else (None, None)


def _option(row: Row, targets: Targets, machine: Machine) -> Option:
    latency, quantile = tail_latency(row)
    # Capacity counts every call, the slow ones too; the median would promise more than it keeps.
    rate = row.cell.batch * row.cell.streams / row.mean_s if row.mean_s else None
    option = Option(
        cell=row.cell,
        env_id=row.env_id,
        random_weights=row.random_weights,
        unstable=row.stable is False,
        rate_per_s=rate,
        latency_s=latency,
        latency_quantile=quantile,
        rss_peak_bytes=row.rss_peak_bytes,
        vram_peak_bytes=row.vram_peak_bytes,
        load=targets.of(row.cell.side) / (rate * targets.utilisation) if rate else None,
        replicas=None,
        per_machine=None,
    )
    return _limited(option, row.problems, targets, machine)


def _limited(option: Option, problems: Sequence[str], targets: Targets, machine: Machine) -> Option:
    """Fill in the replicas, or the limits that the option breaks."""
    broken = list(problems)
    if option.load is None and not broken:
        broken.append("not timed: only a memory pass is stored")
    if targets.slo_s is not None and option.latency_s is not None:
        over = option.latency_s - targets.slo_s
        if over > 0:
            broken.append(
                f"SLO: {option.latency_quantile} {units.seconds(option.latency_s)} is "
                f"{units.seconds(over)} over {units.seconds(targets.slo_s)}"
            )
    broken += _over("RAM", option.rss_peak_bytes, machine.ram_bytes, targets.ram_bytes)
    if not option.cell.device.startswith("cpu"):
        broken += _over("VRAM", option.vram_peak_bytes, machine.vram_bytes, targets.vram_bytes)
    if machine.cores is not None and option.cell.threads > machine.cores:
        more = option.cell.threads - machine.cores
        broken.append(
            f"cores: {option.cell.threads} threads are {more} more than the machine's "
            f"{machine.cores}"
        )
    if broken or option.load is None:
        return dataclasses.replace(option, broken=tuple(broken))
    # The slack keeps 70 / (100 x 0.7) at one replica, whatever binary fractions make of it.
    replicas = max(1, math.ceil(option.load - 1e-9))
    return dataclasses.replace(
        option, replicas=replicas, per_machine=machine.capacity(load_of(option))
    )


def _over(name: str, needed: int | None, has: int | None, asked: int | None) -> list[str]:
    if needed is None:
        unknown = f"{name}: not measured, so the budget cannot be checked"
        return [unknown] if asked is not None else []
    if has is None or needed <= has:
        return []
    return [
        f"{name}: one replica peaks at {units.size(needed)}, {units.size(needed - has)} over "
        f"{units.size(has)}"
    ]


def load_of(option: Option) -> Load:
    """What one replica takes of a machine."""
    return Load(
        threads=option.cell.threads,
        ram_bytes=option.rss_peak_bytes or 0,
        vram_bytes=option.vram_peak_bytes or 0,
        gpu=not option.cell.device.startswith("cpu"),
        replicas=option.replicas or 0,
        need=option.load or 0.0,
        latency_s=option.latency_s or 0.0,
    )


# --- both towers ---------------------------------------------------------------------------


def _cheapest(passing: Sequence[Option], targets: Targets, machine: Machine) -> Deployment | None:
    """The cheapest pair of one model's options, or None where a wanted tower has none."""
    sides: list[list[Option | None]] = []
    for side in SIDES:
        found: list[Option | None] = [o for o in passing if o.cell.side == side]
        sides.append(found if targets.of(side) > 0 else [None])
    plans = [_deployment(i, t, targets, machine) for i in sides[0] for t in sides[1]]
    return min(plans, key=_plan_order, default=None)


def _deployment(
    image: Option | None, text: Option | None, targets: Targets, machine: Machine
) -> Deployment:
    chosen = [o for o in (image, text) if o is not None]
    loads = [load_of(o) for o in chosen]
    filled = pack(loads, machine, targets.slo_s)
    memory: int | None = None
    fullest: int | None = None
    if all(o.rss_peak_bytes is not None for o in chosen):
        memory = sum(load.ram_bytes * load.replicas for load in loads)
        fullest = max(
            sum(n * load.ram_bytes for n, load in zip(counts, loads, strict=True))
            for _, counts in filled
        )
    known = fullest is not None and machine.ram_bytes is not None
    return Deployment(
        rank=0,
        env_id=chosen[0].env_id,
        model_id=chosen[0].cell.model_id,
        random_weights=any(o.random_weights for o in chosen),
        image=image,
        text=text,
        machines=sum(number for number, _ in filled),
        memory_bytes=memory,
        fullest_bytes=fullest,
        headroom_bytes=(machine.ram_bytes or 0) - (fullest or 0) if known else None,
    )


def _plan_order(plan: Deployment) -> tuple:
    """Fewest machines, then least memory (unknown last), then fewest replicas, then names."""
    memory = math.inf if plan.memory_bytes is None else plan.memory_bytes
    replicas = sum(o.replicas or 0 for o in plan.towers)
    return (
        plan.machines,
        memory,
        replicas,
        plan.model_id,
        [cell_order(o.cell) for o in plan.towers],
    )


def _ranked(plans: Sequence[Deployment], env_ids: Sequence[str]) -> list[Deployment]:
    """Ranks count within an environment: machines of different kinds have different prices."""
    ranked = []
    for env_id in env_ids:
        mine = sorted((p for p in plans if p.env_id == env_id), key=_plan_order)
        ranked += [dataclasses.replace(p, rank=i) for i, p in enumerate(mine, start=1)]
    return ranked
