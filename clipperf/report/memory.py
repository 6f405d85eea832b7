"""How the peak of memory grows with the batch: the measured points, and a line through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipperf import stats, units
from clipperf.report.charts import Chart, Group, Line, LineChart, even_axis, grouped
from clipperf.report.records import Row

FEWEST_BATCHES = 4
"""With fewer a line would fit whatever was measured, and its residuals would say nothing."""


@dataclass(frozen=True)
class MemoryFit:
    """Peak bytes of a batch as weights + base + per_item * batch, by least squares.

    `weights_bytes` is the tower's size on disk; `base_bytes` all else that does not grow, below 0
    where not all of the weights were in memory at once, and all of it where the size on disk is
    not known. `residual_bytes` is the largest distance of a point from the line, `batches` those
    that it is from.
    """

    weights_bytes: int | None
    base_bytes: float
    per_item_bytes: float
    residual_bytes: float
    batches: tuple[int, ...]

    def at(self, batch: float) -> float:
        """The line's bytes at a batch."""
        return (self.weights_bytes or 0) + self.base_bytes + self.per_item_bytes * batch

    @property
    def words(self) -> str:
        """The line in words."""
        known = self.weights_bytes is not None
        weights = f"{units.size(self.weights_bytes or 0)} of weights " if known else ""
        base, item, residual = (
            units.size(round(abs(each)))
            for each in (self.base_bytes, self.per_item_bytes, self.residual_bytes)
        )
        sign = "-" if self.base_bytes < 0 else "+"
        start = f"{weights}{sign} {base}" if known else base if sign == "+" else f"-{base}"
        return (
            f"{start} {'-' if self.per_item_bytes < 0 else '+'} {item} an input, largest residual "
            f"{residual}"
        )


def memory_fit(points: Sequence[tuple[int, int]], weights_bytes: int | None) -> MemoryFit | None:
    """The line through peaks (batch, bytes); None for fewer than FEWEST_BATCHES batches."""
    batches = tuple(sorted({batch for batch, _ in points}))
    if len(batches) < FEWEST_BATCHES:
        return None
    start, slope = stats.fitted_line([float(b) for b, _ in points], [float(y) for _, y in points])
    worst = max(abs(y - (start + slope * batch)) for batch, y in points)
    return MemoryFit(weights_bytes, start - (weights_bytes or 0), slope, worst, batches)


def memory_charts(rows: Sequence[Row], labels: dict[str, str]) -> tuple[Chart, ...]:
    """Peak RAM and VRAM over the batch, of each tower of which four batches were measured."""
    charts: list[Chart] = []
    for group in grouped(rows, labels):
        for name, peak in (
            ("RAM", lambda row: row.rss_peak_bytes),
            ("VRAM", lambda row: row.vram_peak_bytes),
        ):
            chart = _chart(name, group, peak)
            charts += [chart] if chart is not None else []
    return tuple(charts)


def _chart(name: str, group: Group, peak: Callable[[Row], int | None]) -> LineChart | None:
    lines: list[Line] = []
    told: list[str] = []
    known = sorted((r for r in group.rows if peak(r)), key=lambda r: r.cell.batch)
    for setup, rows in group.by_setup(known).items():
        points = [(row.cell.batch, peak(row) or 0) for row in rows]
        fit = memory_fit(points, rows[0].disk_bytes)
        if fit is None:
            continue
        number = group.series[setup]
        ends = tuple((float(b), fit.at(b)) for b in (fit.batches[0], fit.batches[-1]))
        lines.append(Line(setup, ends, number, marked=False))
        measured = tuple((float(batch), float(value)) for batch, value in points)
        lines.append(Line("", measured, number, drawn=False))
        told.append(f"{setup}: {fit.words}.")
    if not lines:
        return None
    most = max(x for line in lines for x, _ in line.points)
    values = [y for line in lines for _, y in line.points]
    x_range, x_ticks = even_axis(0.0, most, "{:g}".format)
    y_range, y_ticks = even_axis(0.0, max(values), lambda y: units.size(round(y)), base=2.0)
    return LineChart(
        title=f"Peak {name} over batch: {group.where}",
        description=(
            "Points are measured, lines are fitted to them by least squares, as the tower's file, "
            f"what else does not grow, and what each input adds. {' '.join(told)}"
        ),
        x_label="batch",
        x_range=x_range,
        x_ticks=x_ticks,
        y_range=y_range,
        y_ticks=y_ticks,
        lines=tuple(lines),
        scales=(False, False),
    )
