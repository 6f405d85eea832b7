"""Figures of what `peers.py` measured: rates, ratios, shares of the machine's limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peers_candidates import Work
from roofline import peaks

from clipperf import stats

Row = dict[str, Any]


def rows_of(data: dict[str, Any], work: str) -> dict[str, Row]:
    """The rows of one workload that have samples, by candidate."""
    return {r["candidate"]: r for r in data["speed"] if r["work"] == work and r["blocks"]}


def medians(row: Row) -> list[float]:
    """Seconds of a call, block by block."""
    return [stats.median(block) for block in row["blocks"]]


def call_s(row: Row) -> float:
    """Seconds of a call: the median over blocks."""
    return stats.median(medians(row))


def fastest(rows: Iterable[Row]) -> Row | None:
    """The row of the least seconds; None of none."""
    return min(rows, key=call_s, default=None)


def ratio(
    ours: Row | None, theirs: Row | None
) -> tuple[float, tuple[float, float] | None] | tuple[None, None]:
    """How many times as fast `ours` is, block by block; Nones where either is not there."""
    if ours is None or theirs is None:
        return None, None
    pairs = list(zip(medians(ours), medians(theirs), strict=False))
    return stats.paired_ratio([a for a, _ in pairs], [b for _, b in pairs])


def limit_share(data: dict[str, Any], work: Work, row: Row) -> float | None:
    """The share that a candidate reaches of the machine's best product of its arithmetic.

    None where a workload's operations or that product were not counted.
    """
    operations = operations_of(data, work)
    top = peaks(*data["roofline"]).get(data["arithmetic"][row["candidate"]])
    if operations is None or top is None:
        return None
    return work.n * operations / call_s(row) / top


def operations_of(data: dict[str, Any], work: Work) -> float | None:
    """The operations that an input of a workload takes on average, two a multiply-add."""
    if work.kind in ("image", "jpeg"):
        return float(data["image_flops"])
    if work.kind == "text":
        found: float | None = data["text_operations"].get(work.texts)
        return found
    return None
