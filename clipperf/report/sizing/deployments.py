"""Two towers, or one, on machines: how many, what they cost, what they keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from clipperf import units
from clipperf.report.sizing.options import load_of, needed
from clipperf.report.sizing.packing import Machine, pack
from clipperf.report.sizing.prices import Prices
from clipperf.report.sizing.quality import Judge, together
from clipperf.report.sizing.types import HOURS_A_MONTH, Deployment, Option, Quality, Targets

S_AN_HOUR = 3600


def deployment(
    image: Option | None,
    text: Option | None,
    targets: Targets,
    machines: Mapping[str, Machine],
    prices: Prices,
) -> Deployment:
    """One model's towers on the machines that they were measured on, packed where it is one kind.

    At least one of the towers must be there, and each must fit a machine.
    """
    chosen = [o for o in (image, text) if o is not None]
    kinds, memory, fullest, headroom = _placed(chosen, targets, machines)
    spans = [o.replicas_interval for o in chosen]
    ends: list[int | None] = []
    month: list[float] = []
    for end in (0, 1) if any(spans) else ():
        moved = [_moved(o, end, targets) for o in chosen]
        if any(o.replicas is None for o in moved):
            ends.append(None)
            month.append(math.inf)
            continue
        there = _placed(moved, targets, machines)[0]
        ends.append(sum(number for _, number in there))
        month.append(_per_hour(there, prices) * HOURS_A_MONTH)
    per_hour = _per_hour(kinds, prices)
    items_per_s = targets.images_per_s + targets.texts_per_s
    return Deployment(
        rank=0,
        env_id=chosen[0].env_id,
        model_id=chosen[0].cell.model_id,
        random_weights=any(o.random_weights for o in chosen),
        image=image,
        text=text,
        machines=sum(number for _, number in kinds),
        memory_bytes=memory,
        fullest_bytes=fullest,
        headroom_bytes=headroom,
        kinds=kinds,
        machines_interval=(ends[0] or 1, ends[1]) if ends else None,
        carries=min((o.replicas or 0) / o.load for o in chosen if o.load),
        per_month=per_hour * HOURS_A_MONTH if prices else None,
        per_month_interval=(month[0], month[1]) if prices and month else None,
        per_million=per_hour / S_AN_HOUR / items_per_s * 1e6 if prices else None,
        quality=_quality(chosen),
    )


def _moved(option: Option, end: int, targets: Targets) -> Option:
    """The option at the fewest (0) or the most (1) replicas that its interval allows.

    Their load is that of the interval's rate. The most are None where nothing bounds them.
    """
    if option.replicas_interval is None or option.held_interval is None:
        return option
    held = option.held_interval[1 - end]
    load = needed(held, targets.of(option.cell.side), targets) if held > 0 else None
    return dataclasses.replace(option, replicas=option.replicas_interval[end], load=load)


def broken(plan: Deployment, targets: Targets, judge: Judge | None) -> list[str]:
    """The limits that two towers break together while each keeps to them."""
    if len(plan.towers) < 2:
        return []
    found = []
    image, text = plan.towers
    if targets.disk_bytes is not None and image.env_id == text.env_id:
        disk = (image.disk_bytes or 0) + (text.disk_bytes or 0)
        if disk > targets.disk_bytes:
            found.append(
                f"disk: both towers take {units.size(disk)}, "
                f"{units.size(disk - targets.disk_bytes)} over {units.size(targets.disk_bytes)}"
            )
    return found + (judge.broken(plan.quality) if judge is not None else [])


Placed = tuple[tuple[tuple[str, int], ...], int | None, int | None, int | None]
"""Machines by environment, RAM of all replicas, RAM of the fullest machine, what it has left."""


def _placed(chosen: Sequence[Option], targets: Targets, machines: Mapping[str, Machine]) -> Placed:
    kinds: list[tuple[str, int]] = []
    full: list[tuple[int, int | None]] = []
    for env_id in dict.fromkeys(o.env_id for o in chosen):
        loads = [load_of(o, targets.spare) for o in chosen if o.env_id == env_id]
        filled = pack(loads, machines[env_id], targets.slo_s)
        kinds.append((env_id, sum(number for number, _ in filled)))
        fullest = max(
            sum(n * load.ram_bytes for n, load in zip(counts, loads, strict=True))
            for _, counts in filled
        )
        full.append((fullest, machines[env_id].ram_bytes))
    if any(o.rss_peak_bytes is None for o in chosen):
        return tuple(kinds), None, None, None
    memory = sum((o.rss_peak_bytes or 0) * (o.replicas or 0) for o in chosen)
    left = [has - used for used, has in full if has is not None]
    return (
        tuple(kinds),
        memory,
        max(used for used, _ in full),
        min(left) if len(left) == len(full) else None,
    )


def _per_hour(kinds: Sequence[tuple[str, int]], prices: Prices) -> float:
    return sum(number * prices.get(env_id, 0.0) for env_id, number in kinds)


def _quality(chosen: Sequence[Option]) -> Quality | None:
    if len(chosen) == 1:
        return chosen[0].quality
    image, text = chosen
    same = {(o.cell.runtime, o.cell.precision) for o in chosen}
    return together(image.quality, text.quality, alike=len(same) == 1)
