"""What may be compared: cells that share all but some fields, passes that took turns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from clipperf import stats
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Measurement
from clipperf.nouns.variant import BASELINE_PRECISION, BASELINE_RUNTIME, PRECISIONS
from clipperf.report.table import Interval

SETUP = ("runtime", "precision", "input")
"""The fields of a cell in which rivals differ: how a tower is run, not what it is asked."""


def alike(cell: Cell, *but: str) -> tuple[object, ...]:
    """What a cell shares with others that differ from it in the fields `but` alone.

    Whatever joins or compares rows takes this as its key, so that a field that cells get
    some day is part of it, too.

    Raises:
        ValueError: cells have no such field.
    """
    names = [field.name for field in dataclasses.fields(cell)]
    if not set(but) <= set(names):
        raise ValueError(f"cells have no field {' or '.join(set(but) - set(names))}")
    return tuple(getattr(cell, name) for name in names if name not in but)


def full_precision(cell: Cell) -> bool:
    """Whether it computes in the precision that all others are judged by."""
    row = PRECISIONS.find(cell.precision)
    return row is not None and row.is_baseline


def is_baseline(cell: Cell) -> bool:
    """Whether it is what the other runtimes and precisions are judged by."""
    usual = (cell.runtime, cell.input) == (BASELINE_RUNTIME, "float32")
    return usual and full_precision(cell)


SHORTEST_S, LONGEST_S = 1e-9, 1e9
"""Between these lies whatever a clock can have seen; what is not finite does not."""


def usable_samples(time: Measurement | None) -> tuple[float, ...]:
    """The run times of a pass that went well; none at all if one is no time that a run can take.

    One impossible sample means that the clock or the file cannot be trusted, so nothing is
    picked out of such a list.
    """
    if time is None or time.status != "ok":
        return ()
    if not all(SHORTEST_S <= s <= LONGEST_S for s in time.run_s):
        return ()
    return time.run_s


def rate_of(
    cell: Cell, time: Measurement | None, samples: Sequence[float]
) -> tuple[float | None, Interval | None]:
    """Items a second by the median of a call: of several instances the sum of each one's own.

    The interval's ends are the sums of theirs, which is wider than it need be.
    """
    if time is None or not samples:
        return None, None
    each = time.by_worker(samples)
    items = cell.at_once / len(each)
    rate = math.fsum(items / stats.median(own) for own in each)
    ends = [end for own in each if (end := stats.median_interval(own)) is not None]
    if len(ends) < len(each):
        return rate, None
    return rate, (math.fsum(items / e[1] for e in ends), math.fsum(items / e[0] for e in ends))


def baseline_of(time: Measurement, peers: Iterable[Measurement]) -> Measurement | None:
    """PyTorch fp32 (else PyTorch at the same precision) that took turns with `time`."""
    if is_baseline(time.cell):
        return None
    return torch_at(BASELINE_PRECISION, time, peers) or torch_at(time.cell.precision, time, peers)


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
