"""Which time passes may be compared, and their ratio block against block."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from clipperf import stats
from clipperf.nouns.result import Measurement

BASELINE_RUNTIME = "torch"
"""The runtime that ratios are taken over; its fp32 where that was measured."""

Interval = tuple[float, float]


def usable_samples(time: Measurement | None) -> tuple[float, ...]:
    """The run times of a pass that went well; none at all if one is not finite and positive.

    One impossible sample means that the clock or the file cannot be trusted, so nothing is
    picked out of such a list.
    """
    if time is None or time.status != "ok":
        return ()
    if not all(math.isfinite(s) and s > 0 for s in time.run_s):
        return ()
    return time.run_s


def baseline_of(time: Measurement, peers: Iterable[Measurement]) -> Measurement | None:
    """PyTorch fp32 (else PyTorch at the same precision) that took turns with `time`."""
    if (time.cell.runtime, time.cell.precision) == (BASELINE_RUNTIME, "fp32"):
        return None
    return torch_at("fp32", time, peers) or torch_at(time.cell.precision, time, peers)


def torch_at(precision: str, time: Measurement, peers: Iterable[Measurement]) -> Measurement | None:
    """PyTorch at a precision that took turns with `time`, where that is another cell."""
    wanted = dataclasses.replace(
        time.cell, runtime=BASELINE_RUNTIME, precision=precision, input="float32"
    )
    turns = [m for m in peers if m.cell == wanted != time.cell and took_turns(time, m)]
    return turns[-1] if turns else None


def took_turns(a: Measurement, b: Measurement) -> bool:
    """Whether two time passes of one run alternated block by block, and both went well."""
    return (
        a.group is not None
        and a.group == b.group
        and a.kind == b.kind == "time"
        and bool(usable_samples(a))
        and bool(usable_samples(b))
    )


def block_ratio(ours: Measurement, theirs: Measurement) -> tuple[float, Interval | None] | None:
    """Speed of `ours` over `theirs`, from the medians of the blocks that both have."""
    if len(ours.blocks) != len(ours.run_s) or len(theirs.blocks) != len(theirs.run_s):
        return None
    a = stats.block_medians(ours.run_s, ours.blocks)
    b = stats.block_medians(theirs.run_s, theirs.blocks)
    both = sorted(a.keys() & b.keys())
    if not both:
        return None
    return stats.paired_ratio([a[i] for i in both], [b[i] for i in both])
