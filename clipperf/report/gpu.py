"""What a GPU adds to the cost of a tower: copies and compute apart, energy, clocks, meters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from clipperf import stats, units
from clipperf.nouns.result import GpuLoad, ResultFile
from clipperf.report.columns import CELL, Column, cell_columns, tabulate, who_columns
from clipperf.report.pairs import full_precision
from clipperf.report.records import Row, finite, labels_of, merge
from clipperf.report.table import Table, Value
from clipperf.report.words import row_name
from clipperf.text import one_line

PHASES = ("h2d", "compute", "d2h", "host")

HOST_GAP = 0.10
"""From here on the host's time over the sum of the phases is worth a caveat."""

NAMED_ROWS = 4
"""Rows that a caveat names; the table has them all."""


# --- figures -------------------------------------------------------------------------------


def phase_s(row: Row, name: str) -> float | None:
    """The median seconds of one of PHASES."""
    phases = row.time.phases_s if row.time is not None else None
    samples = phases.get(name) if phases else None
    return finite(stats.median(samples)) if samples else None


def host_gap(row: Row) -> float | None:
    """By which share the host's median is over that of copies and compute together."""
    host_s = phase_s(row, "host")
    if host_s is None or row.time is None or row.time.phases_s is None:
        return None
    parts = [row.time.phases_s.get(name, ()) for name in PHASES[:-1]]
    sums = [math.fsum(run) for run in zip(*parts, strict=False)]
    middle = finite(stats.median(sums)) if sums else None
    return host_s / middle - 1 if middle else None


def energy_per_1000_j(row: Row) -> float | None:
    """Joules of the whole board for 1,000 embeddings."""
    load = _load(row)
    energy_j = finite(load.energy_j)
    if energy_j is None or load.runs <= 0:
        return None
    # Runs are those of all instances and streams together already.
    return energy_j / (load.runs * row.cell.batch) * 1000


def _load(row: Row) -> GpuLoad:
    """What the meters saw, all of it None where there were none."""
    return (row.time.gpu if row.time is not None else None) or GpuLoad(0.0, 0)


def gpu_record(row: Row) -> dict[str, Any]:
    """The figures of a row in SI units, flat."""
    load = _load(row)
    low, high = load.sm_clock_mhz or (None, None)
    return {
        **{f"phase_{name}_s": phase_s(row, name) for name in PHASES},
        "energy_per_1000_j": energy_per_1000_j(row),
        "energy_source": load.energy_source,
        "power_w": load.power_w,
        "sm_clock_low_mhz": low,
        "sm_clock_high_mhz": high,
        "temperature_c": load.temperature_c,
        "throttle": ", ".join(load.throttle) or None,
    }


# --- table ---------------------------------------------------------------------------------


def gpu_table(results: Sequence[ResultFile]) -> Table | None:
    """What the GPU's meters saw, one row a cell that has any such figure; None without them.

    Raises:
        UsageError: the files hold nothing.
    """
    rows = [row for row in merge(results) if _has_figures(row)]
    if not rows:
        return None
    labels = labels_of(results)
    columns: list[Column[Row]] = [
        *who_columns(labels),
        *cell_columns(CELL, rows, optional=["Threads"]),
        Column("vs PyTorch same precision", _peer_ratio, fold="empty"),
        Column("Copy in ms", lambda r: phase_s(r, "h2d"), "ms", "empty"),
        Column("Compute ms", lambda r: phase_s(r, "compute"), "ms", "empty"),
        Column("Copy out ms", lambda r: phase_s(r, "d2h"), "ms", "empty"),
        Column("Host ms", lambda r: phase_s(r, "host"), "ms", "empty"),
        Column("J per 1000", energy_per_1000_j, "number", "empty"),
        Column("Power W", lambda r: _load(r).power_w, "number", "empty"),
        Column("SM MHz", _clocks, "span", "empty"),
        Column("Max °C", lambda r: _load(r).temperature_c, "count", "empty"),
        Column("VRAM MiB", lambda r: r.vram_peak_bytes, "MiB", "empty"),
        Column("VRAM by", lambda r: r.vram_source, "words", "empty"),
        Column("Allocated MiB", lambda r: r.vram_allocated_bytes, "MiB", "empty"),
        Column("Throttled by", lambda r: ", ".join(_load(r).throttle), "words", "empty"),
    ]
    return tabulate("GPU", columns, rows, caveats=[*_legend(rows), *gpu_caveats(rows, labels)])


def _has_figures(row: Row) -> bool:
    bytes_known = (row.vram_peak_bytes, row.vram_allocated_bytes) != (None, None)
    return bytes_known or _load(row).runs > 0 or phase_s(row, "host") is not None


def _peer_ratio(row: Row) -> Value:
    """Over PyTorch in the same precision; full precision has it in the cost table."""
    told = None if full_precision(row.cell) else row.peer_ratio
    return Value(told, "ratio", row.peer_interval)


def _clocks(row: Row) -> Value:
    clocks = _load(row).sm_clock_mhz
    return Value(clocks[0] if clocks else None, "span", clocks)


def _legend(rows: Sequence[Row]) -> list[str]:
    found = []
    if any(phase_s(r, "compute") is not None for r in rows):
        found.append(
            "Copies and compute are medians by the GPU's events, Host is the host's clock around "
            "the same runs."
        )
    sources = sorted({source for r in rows if (source := _load(r).energy_source)})
    if sources:
        found.append(
            "J per 1000 is the energy of the whole board for 1,000 embeddings without pause, by "
            f"its {' or '.join(sources)}."
        )
    if any(r.vram_allocated_bytes is not None for r in rows):
        found.append(
            "Allocated is the runtime's own account; VRAM holds its context and libraries, too."
        )
    return found


# --- caveats -------------------------------------------------------------------------------


def gpu_caveats(rows: Sequence[Row], labels: dict[str, str]) -> list[str]:
    """What weakens the figures of a GPU; `labels` are the environments by their id."""
    throttled: dict[str, list[Row]] = {}
    for row in rows:
        for reason in _load(row).throttle:
            throttled.setdefault(reason, []).append(row)
    found = [
        f"The GPU throttled under load ({reason}): {_named(slowed, labels)}. The figures hold for "
        f"this board's power and cooling."
        for reason, slowed in throttled.items()
    ]
    untold: dict[str, list[Row]] = {}
    for row in rows:
        for what in _load(row).missing:
            untold.setdefault(what, []).append(row)
    found += [
        f"The GPU's meters lack {one_line(what)} ({_named(those, labels)})."
        for what, those in untold.items()
    ]
    late = [r for r in rows if (gap := host_gap(r)) is not None and gap > HOST_GAP]
    if late:
        share = f"{units.percent(HOST_GAP, 0)} %"
        found.append(
            f"The host's time is more than {share} over copies and compute: "
            f"{_named(late, labels)}. The rest is the processor's, such as staging and launching."
        )
    for row in rows:
        if row.time is not None and row.time.status == "ok" and row.time.error:
            found.append(f"{_named([row], labels)}: {one_line(row.time.error)}")
    return found


def _named(rows: Sequence[Row], labels: dict[str, str]) -> str:
    names = [row_name(row, labels) for row in rows]
    more = len(names) - NAMED_ROWS
    return ", ".join(names[:NAMED_ROWS]) + (f" and {more} more" if more > 0 else "")
