"""Charts of latency: what a rate costs in waiting, and how the calls of a cell are spread."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf import stats, units
from clipperf.report.charts import (
    Box,
    BoxChart,
    Chart,
    Group,
    Line,
    LineChart,
    axis,
    duration,
    even_axis,
    grouped,
)
from clipperf.report.pairs import SETUP, alike, usable_samples
from clipperf.report.records import Row
from clipperf.report.serving import Line as Served
from clipperf.report.words import apart

POINTS = 60
"""Of a line of shares at most."""

FEWEST_FOR_QUARTILES = 26
"""Calls from which on `stats.quantile` gives them."""


def latency_charts(rows: Sequence[Row], labels: dict[str, str]) -> tuple[Chart, ...]:
    """Of each model and tower: latency over throughput by batch, and how calls are spread."""
    charts: list[Chart] = []
    for group in grouped(rows, labels):
        if len({row.cell.batch for row in group.timed}) > 1:
            charts.append(_over_throughput(group))
        if group.timed:
            charts.append(_distribution(group))
            charts += _within(group)
    return tuple(charts)


def _within(group: Group) -> list[Chart]:
    """How many of the calls took no longer than a time, each setup at its fastest batch."""
    lines = []
    for name, rows in group.by_setup(group.timed).items():
        best = max(rows, key=lambda row: row.items_per_s or 0.0)
        samples = sorted(usable_samples(best.time))
        if len(samples) >= FEWEST_FOR_QUARTILES:
            label = f"{name}, batch {best.cell.batch}"
            points = _steps(samples)
            lines.append(Line(label, points, group.series[name], marked=False))
    if not lines:
        return []
    told = [f"{line.label}: half within {units.seconds(_half(line))}" for line in lines]
    return [
        _shares(
            f"Calls within a time: {group.where}",
            f"The share of all timed calls that took no longer, each setup at its fastest batch. "
            f"{'; '.join(told)}.",
            lines,
        )
    ]


def _half(line: Line) -> float:
    return next(x for x, share in line.points if share >= 0.5)


def _steps(ordered: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(seconds, share of the samples up to there), at most POINTS of them, both ends among them."""
    count = len(ordered)
    places = sorted({round(n * (count - 1) / (POINTS - 1)) for n in range(POINTS)})
    return tuple((ordered[place], (place + 1) / count) for place in places)


def _shares(title: str, description: str, lines: Sequence[Line]) -> LineChart:
    x_range, x_ticks = axis([x for line in lines for x, _ in line.points], duration)
    y_range, y_ticks = even_axis(0.0, 1.0, lambda y: f"{round(100 * y)} %")
    return LineChart(
        title=title,
        description=f"{description} Time is logarithmic.",
        x_label="time",
        x_range=x_range,
        x_ticks=x_ticks,
        y_range=y_range,
        y_ticks=y_ticks,
        lines=tuple(lines),
        scales=(True, False),
    )


def answer_charts(served: Sequence[Served], labels: dict[str, str]) -> tuple[Chart, ...]:
    """How many answers came within a time, of each model and tower in each scenario of serving.

    A chart is of one length of texts and one bound; how a tower is run differs within it.
    """
    groups: dict[tuple, list[Served]] = {}
    for line in served:
        if line.trial is not None:
            same = alike(line.cell, *SETUP, "batch", "device", "threads", "streams", "instances")
            groups.setdefault((line.env_id, same, line.slo_s), []).append(line)
    charts = []
    for mine in groups.values():
        lines = [_answers(line, number, mine) for number, line in enumerate(mine)]
        known = [line for line in lines if len(line.points) > 1]
        c, slo_s = mine[0].cell, mine[0].slo_s
        tokens = f", {c.tokens} tokens" if c.tokens else ""
        bound = f", bound {units.seconds(slo_s)}" if slo_s is not None else ""
        where = f" · {labels[mine[0].env_id]}" if len(labels) > 1 else ""
        if known:
            charts.append(
                _shares(
                    f"Answers within a time: {c.model_id} · {c.side} tower{tokens}, "
                    f"{c.scenario}{bound}{where}",
                    "Percentiles as LoadGen took them, from an input's arrival to its embedding, "
                    "in the test that counts, where enough answers back them.",
                    known,
                )
            )
    return tuple(charts)


def _answers(line: Served, number: int, lines: Sequence[Served]) -> Line:
    """The percentiles of a row, each a point; `lines` are those of its chart."""
    trial = line.trial
    assert trial is not None
    found = sorted((float(name), seconds) for name, seconds in trial.latency_s.items())
    backed = [(p, s) for p, s in found if trial.queries >= stats.samples_for(p / 100) and s > 0]
    alike_served = [x for x in lines if (x.endpoint is None) == (line.endpoint is None)]
    cells = [x.cell for x in alike_served]
    if line.endpoint is None:
        who = line.cell.setup + apart(line.cell, cells, "device", "threads", "streams", "instances")
    else:
        several = len({x.endpoint.label for x in lines if x.endpoint is not None}) > 1
        there = line.endpoint.label if several else "there"
        who = f"{line.cell.setup} {there}{apart(line.cell, cells, 'streams')}"
    label = f"{who}, up to {line.cell.batch}, {units.rate(trial.rate_per_s)}/s"
    return Line(label, tuple((s, p / 100) for p, s in backed), number)


def _over_throughput(group: Group) -> LineChart:
    lines = []
    for name, rows in group.by_setup(group.timed).items():
        points = tuple((row.items_per_s or 0.0, row.p50_s or 0.0) for row in rows)
        texts = tuple(str(row.cell.batch) for row in rows)
        lines.append(Line(name, points, group.series[name], texts))
    x_range, x_ticks = axis([x for line in lines for x, _ in line.points], units.rate)
    y_range, y_ticks = axis([y for line in lines for _, y in line.points], duration)
    most = max(group.timed, key=lambda row: row.items_per_s or 0.0)
    least = min(group.timed, key=lambda row: row.p50_s or 0.0)
    return LineChart(
        title=f"Median latency over throughput: {group.where}",
        description=(
            f"Each point is a batch, whose size stands beside it; further right and further down "
            f"is better. Most: {most.setup} at batch {most.cell.batch}, "
            f"{units.rate(most.items_per_s)} {group.unit} at {units.seconds(most.p50_s)} a batch. "
            f"Soonest: {least.setup} at batch {least.cell.batch}, {units.seconds(least.p50_s)} at "
            f"{units.rate(least.items_per_s)} {group.unit}. Both axes are logarithmic."
        ),
        x_label=group.unit,
        x_range=x_range,
        x_ticks=x_ticks,
        y_range=y_range,
        y_ticks=y_ticks,
        lines=tuple(lines),
    )


def _distribution(group: Group) -> BoxChart:
    by_batch: dict[int, list[Box]] = {}
    longest: list[tuple[float, Row]] = []
    for row in group.timed:
        box = _box(row, group.series[row.setup])
        by_batch.setdefault(row.cell.batch, []).append(box)
        longest.append((box.ends[1], row))
    ends = [end for boxes in by_batch.values() for box in boxes for end in box.ends]
    x_range, x_ticks = even_axis(min(ends), max(ends), lambda x: f"{round(x, 6):g}x")
    worst, row = max(longest, key=lambda pair: pair[0])
    return BoxChart(
        title=f"Calls over their median: {group.where}",
        description=(
            f"From the shortest call to the longest, each over the median of its cell, which "
            f"stands beside it; the box holds the middle half of the calls, where at least "
            f"{FEWEST_FOR_QUARTILES} back it. The longest of all took {worst:.2f} times the "
            f"median: {row.setup} at batch {row.cell.batch}, of {row.samples} calls."
        ),
        groups=tuple((f"Batch {batch}", tuple(boxes)) for batch, boxes in by_batch.items()),
        x_range=x_range,
        x_ticks=x_ticks,
    )


def _box(row: Row, series: int) -> Box:
    """The calls of a row with times."""
    samples = usable_samples(row.time)
    middle = stats.median(samples)
    over = [sample / middle for sample in samples]
    low, high = stats.quantile(over, 0.25), stats.quantile(over, 0.75)
    tail = f", p99 {units.seconds(row.p99_s)}" if row.p99_s is not None else ""
    return Box(
        label=row.setup,
        ends=(min(over), max(over)),
        quartiles=(low, high) if low is not None and high is not None else None,
        text=f"{units.seconds(middle)}{tail}",
        series=series,
    )
