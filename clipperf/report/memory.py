"""How the peak of memory grows with the batch: the measured points, and a line through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipperf import units
from clipperf.nouns.memory import memory_fit
from clipperf.report.charts import Chart, Group, Line, LineChart, even_axis, grouped
from clipperf.report.records import Row


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
