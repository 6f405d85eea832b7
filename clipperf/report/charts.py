"""Which charts a report shows: plain data with finished labels; `svg` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipperf import units
from clipperf.report.columns import model_name
from clipperf.report.findings import ITEMS
from clipperf.report.pairs import SETUP, alike
from clipperf.report.records import Row, setup_order
from clipperf.report.table import Interval
from clipperf.report.words import in_streams


@dataclass(frozen=True)
class Bar:
    """One bar: its value with an interval for the whiskers; `series` picks the colour."""

    label: str
    value: float
    interval: Interval | None
    text: str
    series: int


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars in named groups, on one scale from zero."""

    title: str
    description: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]


@dataclass(frozen=True)
class Line:
    """One series of points (x, y) on logarithmic axes."""

    label: str
    points: tuple[tuple[float, float], ...]
    series: int


@dataclass(frozen=True)
class LineChart:
    """Lines on logarithmic axes, with the ticks and their texts; `y_range` is the axis."""

    title: str
    description: str
    x_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_range: tuple[float, float]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]


Chart = BarChart | LineChart


def speed_charts(rows: Sequence[Row], labels: dict[str, str]) -> tuple[Chart, ...]:
    """Throughput bars of each model and tower, and latency over batch where several were run."""
    ordered = sorted(rows, key=lambda r: setup_order(r.cell))
    series = {name: i for i, name in enumerate(dict.fromkeys(r.setup for r in ordered))}
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.env_id, alike(row.cell, *SETUP, "batch")), []).append(row)
    charts: list[Chart] = []
    for group in groups.values():
        timed = [r for r in group if r.items_per_s is not None]
        if not timed:
            continue
        c, env_id = group[0].cell, group[0].env_id
        parts = [model_name(c.model_id, group[0].random_weights).text, f"{c.side} tower"]
        parts += [f"{c.tokens} tokens"] if c.tokens else []
        parts += [c.device, f"{c.threads} threads{in_streams(c)}"]
        parts += [labels[env_id]] if len(labels) > 1 else []
        where = " · ".join(parts)
        charts.append(_throughput(where, ITEMS[c.side], group, series))
        if len({r.cell.batch for r in timed}) > 1:
            charts.append(_latency(where, timed, series))
    return tuple(charts)


def _throughput(where: str, unit: str, group: Sequence[Row], series: dict[str, int]) -> BarChart:
    by_batch: dict[int, list[Bar]] = {}
    for row in group:
        if row.items_per_s is None and row.time_status in (None, "ok"):
            continue
        bar = Bar(
            label=row.setup,
            value=row.items_per_s or 0.0,
            interval=row.items_interval,
            # A bar that is missing without a word would look like one that was not asked for.
            text=units.rate(row.items_per_s) if row.items_per_s else row.time_status or "",
            series=series[row.setup],
        )
        by_batch.setdefault(row.cell.batch, []).append(bar)
    best = max(group, key=lambda r: r.items_per_s or 0.0)
    return BarChart(
        title=f"Throughput, {unit}: {where}",
        description=(
            f"Bars by batch and runtime; whiskers are 95 % intervals of the median. Highest: "
            f"{best.setup} at batch {best.cell.batch}, {units.rate(best.items_per_s)} {unit}."
        ),
        groups=tuple((f"Batch {batch}", tuple(bars)) for batch, bars in sorted(by_batch.items())),
    )


def _latency(where: str, group: Sequence[Row], series: dict[str, int]) -> LineChart:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(group, key=lambda r: r.cell.batch):
        lines.setdefault(row.setup, []).append((float(row.cell.batch), row.p50_s or 0.0))
    latencies = [y for points in lines.values() for _, y in points]
    batches = sorted({r.cell.batch for r in group})
    ticks = _ticks(min(latencies), max(latencies))
    return LineChart(
        title=f"Median latency of a batch: {where}",
        description=(
            f"One line per runtime, batch {batches[0]} to {batches[-1]}, from "
            f"{units.seconds(min(latencies))} to {units.seconds(max(latencies))}; both axes are "
            f"logarithmic."
        ),
        x_label="batch",
        x_ticks=tuple((float(b), str(b)) for b in batches),
        y_range=(ticks[0], ticks[-1]),
        y_ticks=tuple((t, _tick(t)) for t in _readable(ticks)),
        lines=tuple(Line(name, tuple(points), series[name]) for name, points in lines.items()),
    )


def _tick(value: float) -> str:
    """A round tick's text: "20 ms", not "20.0 ms"."""
    for unit, factor, below in (("us", 1e6, 1e-3), ("ms", 1e3, 1), ("s", 1, 120)):
        if value < below:
            return f"{value * factor:g} {unit}"
    return units.seconds(value)


def _ticks(low: float, high: float) -> list[float]:
    """Round values (1, 2, 5 times powers of ten) that enclose low to high."""
    candidates = [float(f"{m}e{p}") for p in range(-9, 7) for m in (1, 2, 5)]
    below = max((c for c in candidates if c <= low), default=candidates[0])
    above = min((c for c in candidates if c >= high and c > below), default=candidates[-1])
    return [c for c in candidates if below <= c <= above]


def _readable(ticks: list[float]) -> list[float]:
    """Few enough ticks to read: past seven, only the powers of ten."""
    return ticks if len(ticks) <= 7 else [t for t in ticks if f"{t:e}".startswith("1.0")]
