"""Which charts a report shows: plain data with finished labels; `svg` draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipperf import units
from clipperf.report.columns import model_name
from clipperf.report.findings import ITEMS
from clipperf.report.pairs import SETUP, alike
from clipperf.report.records import Row, setup_order
from clipperf.report.table import Interval
from clipperf.report.words import driven


@dataclass(frozen=True)
class Bar:
    """One bar: its value with an interval for the whiskers; `series` picks the colour.

    It begins at `start`, 0 but for steps that follow each other.
    """

    label: str
    value: float
    interval: Interval | None
    text: str
    series: int
    start: float = 0.0


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars in named groups, on one scale from zero."""

    title: str
    description: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]


@dataclass(frozen=True)
class Box:
    """The calls of one cell over their median: the shortest and longest, and the quartiles where
    enough calls back them."""

    label: str
    ends: Interval
    quartiles: Interval | None
    text: str
    series: int


@dataclass(frozen=True)
class BoxChart:
    """Boxes in named groups on one linear scale, with its ticks."""

    title: str
    description: str
    groups: tuple[tuple[str, tuple[Box, ...]], ...]
    x_range: tuple[float, float]
    x_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Line:
    """One series of points (x, y), with a text beside each and the ends of its whisker, if any.

    `drawn` says whether a line joins them, `marked` whether each has a mark. Without a `series` it
    is no measurement: a front, or a line that was fitted.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    series: int | None
    texts: tuple[str, ...] = ()
    whiskers: tuple[Interval | None, ...] = ()
    drawn: bool = True
    marked: bool = True


@dataclass(frozen=True)
class LineChart:
    """Lines with the ticks of both axes and their texts; `x_range` and `y_range` are the axes.

    `scales` says of x and y whether they are logarithmic.
    """

    title: str
    description: str
    x_label: str
    x_range: tuple[float, float]
    x_ticks: tuple[tuple[float, str], ...]
    y_range: tuple[float, float]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    scales: tuple[bool, bool] = (True, True)


Chart = BarChart | BoxChart | LineChart


@dataclass(frozen=True)
class Group:
    """Rows of one model's tower that differ in runtime, precision, input and batch alone.

    `where` names what they share, `series` numbers the setups, alike in all charts of a report.
    """

    where: str
    rows: tuple[Row, ...]
    series: dict[str, int]

    @property
    def timed(self) -> list[Row]:
        """Those with times, by batch."""
        known = [row for row in self.rows if row.items_per_s is not None]
        return sorted(known, key=lambda row: row.cell.batch)

    @property
    def unit(self) -> str:
        """What their rates count."""
        return ITEMS[self.rows[0].cell.side]

    def by_setup(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        """Some of the rows under their setups."""
        found: dict[str, list[Row]] = {}
        for row in rows:
            found.setdefault(row.setup, []).append(row)
        return found


def series_of(rows: Sequence[Row]) -> dict[str, int]:
    """A number for each setup, which picks its colour and dashes."""
    ordered = sorted(rows, key=lambda r: setup_order(r.cell))
    return {name: i for i, name in enumerate(dict.fromkeys(r.setup for r in ordered))}


def grouped(rows: Sequence[Row], labels: dict[str, str]) -> list[Group]:
    """The rows in the groups that share charts."""
    series = series_of(rows)
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.env_id, alike(row.cell, *SETUP, "batch")), []).append(row)
    found = []
    for group in groups.values():
        c, env_id = group[0].cell, group[0].env_id
        parts = [model_name(c.model_id, group[0].random_weights).text, f"{c.side} tower"]
        parts += [f"{c.tokens} tokens"] if c.tokens else []
        parts += [c.device, f"{c.threads} threads{driven(c)}"]
        parts += [labels[env_id]] if len(labels) > 1 else []
        found.append(Group(" · ".join(parts), tuple(group), series))
    return found


def speed_charts(rows: Sequence[Row], labels: dict[str, str]) -> tuple[Chart, ...]:
    """Throughput bars of each model and tower, and latency over batch where several were run."""
    charts: list[Chart] = []
    for group in grouped(rows, labels):
        timed = group.timed
        if timed:
            charts.append(_throughput(group.where, group.unit, group.rows, group.series))
        if len({r.cell.batch for r in timed}) > 1:
            charts.append(_latency(group.where, timed, group.series))
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
    y_range, y_ticks = axis(latencies, duration)
    return LineChart(
        title=f"Median latency of a batch: {where}",
        description=(
            f"One line per runtime, batch {batches[0]} to {batches[-1]}, from "
            f"{units.seconds(min(latencies))} to {units.seconds(max(latencies))}; both axes are "
            f"logarithmic."
        ),
        x_label="batch",
        x_range=(float(batches[0]), float(batches[-1])),
        x_ticks=tuple((float(b), str(b)) for b in batches),
        y_range=y_range,
        y_ticks=y_ticks,
        lines=tuple(Line(name, tuple(points), series[name]) for name, points in lines.items()),
    )


# --- axes ----------------------------------------------------------------------------------

Ticks = tuple[tuple[float, str], ...]


def axis(values: Sequence[float], text: Callable[[float], str]) -> tuple[Interval, Ticks]:
    """The ends of a logarithmic axis for some positive values, and its ticks with their texts."""
    ticks = _ticks(min(values), max(values))
    return (ticks[0], ticks[-1]), tuple((t, text(t)) for t in _readable(ticks))


def even_axis(
    low: float, high: float, text: Callable[[float], str], base: float = 10.0
) -> tuple[Interval, Ticks]:
    """The ends of a linear axis from low to high, and its ticks: four to nine at round steps.

    With `base` 2 the steps are powers of two, for bytes.
    """
    rough = (high - low) / 4 or abs(high) / 4 or 1.0
    power = base ** math.floor(math.log(rough, base))
    step = max(m * power for m in (1, 2, 5) if m * power <= rough * (1 + 1e-9) and m < base)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = [number * step for number in range(first, last + 1)]
    return (ticks[0], ticks[-1]), tuple((t, text(t)) for t in ticks)


def duration(value: float) -> str:
    """A round time's text: "20 ms", not "20.0 ms"."""
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
