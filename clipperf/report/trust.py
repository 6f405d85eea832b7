"""How far each figure can be trusted, by what its row holds, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from clipperf import stats, units
from clipperf.nouns.result import ResultFile
from clipperf.report.columns import CELL, Column, cell_columns, tabulate, who_columns
from clipperf.report.pairs import usable_samples
from clipperf.report.records import RESOLVABLE_GAP, Row, labels_of, merge
from clipperf.report.table import Severity, Table, Value

Grade = Literal["good", "fair", "doubtful", "none"]

SEVERITY_OF: dict[Grade, Severity] = {
    "good": "good",
    "fair": "warn",
    "doubtful": "bad",
    "none": "plain",
}

FEWEST = 6
"""Calls from which on a median has an interval."""

LEGEND = (
    f"Doubtful: the pass failed, its median stayed unstable, fewer than {FEWEST} calls give it no "
    "interval, or the GPU was throttled. Fair: something is wide, few or not recorded, as said. "
    "Good: none of these.",
    "A speed-up is doubtful where either of the two rows is unstable.",
    "Rows do not hold what other programs did meanwhile: where that was seen, the notes of the "
    "result file say so, and the caveats of the costs. An unstable median is its usual trace.",
)

Judged = tuple[Grade, str]
"""A grade, and why it is not better."""


def time_grade(row: Row) -> Judged:
    """How far the times and rates of a row can be trusted."""
    if row.time_status is None:
        return "none", "not timed"
    if row.time_status != "ok" or not row.samples:
        return "doubtful", f"time pass {row.time_status}, no calls that can be used"
    load = row.time.gpu if row.time is not None else None
    bad = [
        f"only {row.samples} calls, no interval" if row.samples < FEWEST else "",
        "unstable" if row.stable is False else "",
        f"GPU throttled by {', '.join(load.throttle)}" if load and load.throttle else "",
    ]
    width = stats.relative_width(usable_samples(row.time))
    needed = stats.MIN_SAMPLES_FOR_QUANTILE[0.90]
    weak = [
        f"interval {units.percent(width, 0)} % wide" if RESOLVABLE_GAP < width < 1e9 else "",
        f"{row.samples} calls, too few for p90" if FEWEST <= row.samples < needed else "",
        "whether it was stable is not recorded" if row.stable is None else "",
        "what ran is not recorded" if row.time is None or not row.time.provider else "",
        "throttling was not looked at"
        if row.cell.device != "cpu" and (load is None or load.runs < 1)
        else "",
    ]
    return _judged(bad, weak)


def ratio_grade(row: Row) -> Judged:
    """How far the speed-up over PyTorch of a row can be trusted."""
    if row.ratio is None:
        return "none", ""
    bad = [
        "unstable" if row.stable is False else "",
        "PyTorch unstable" if row.baseline_stable is False else "",
    ]
    return _judged(bad, ["no interval" if row.ratio_interval is None else ""])


def memory_grade(row: Row) -> Judged:
    """How far the peaks of memory of a row can be trusted."""
    if row.memory_status is None:
        return "none", "not measured"
    if row.memory_status != "ok" or row.rss_peak_bytes is None:
        return "doubtful", f"memory pass {row.memory_status}, no peak"
    shared = row.vram_peak_bytes is not None and row.vram_source == "nvml-device-delta"
    weak = [
        "no bare worker to compare with" if row.rss_bare_bytes is None else "",
        "VRAM is the whole device's change, other programs included" if shared else "",
    ]
    return _judged([], weak)


def _judged(bad: Sequence[str], weak: Sequence[str]) -> Judged:
    """The grade that is left, with all that was found."""
    reasons = "; ".join(filter(None, (*bad, *weak)))
    return ("doubtful" if any(bad) else "fair" if reasons else "good"), reasons


def trust_table(results: Sequence[ResultFile]) -> Table:
    """The grades of every cell's times and memory, one row a cell.

    Raises:
        UsageError: the files hold nothing.
    """
    rows = merge(results)
    columns: list[Column[Row]] = [
        *who_columns(labels_of(results)),
        *cell_columns(CELL, rows),
        Column("Times", lambda r: _shown(time_grade(r)), "verdict"),
        Column("vs PyTorch", lambda r: _shown(ratio_grade(r)), "verdict"),
        Column("Memory", lambda r: _shown(memory_grade(r)), "verdict"),
        Column("Calls", lambda r: r.samples or None),
        Column("Interval", _width, "share"),
        Column("Ran on", lambda r: r.time.provider if r.time else None, "words", "empty"),
        Column("Why not better", _reasons, "words"),
    ]
    return tabulate("Trust", columns, rows, caveats=LEGEND)


def _shown(judged: Judged) -> Value:
    return Value(judged[0], "verdict", severity=SEVERITY_OF[judged[0]])


def _width(row: Row) -> float | None:
    """The width of the median's interval over the median."""
    width = stats.relative_width(usable_samples(row.time))
    return width if width < 1e9 else None


def _reasons(row: Row) -> str:
    told = (
        ("times", time_grade(row)[1]),
        ("vs PyTorch", ratio_grade(row)[1]),
        ("memory", memory_grade(row)[1]),
    )
    return "; ".join(f"{name}: {reason}" for name, reason in told if reason)
