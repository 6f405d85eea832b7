"""Accuracy over throughput: which setups are both as fast and as accurate as any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipperf import units
from clipperf.nouns.result import Score
from clipperf.report.accuracy import judged
from clipperf.report.charts import Chart, Line, LineChart, axis, even_axis, series_of
from clipperf.report.findings import ITEMS
from clipperf.report.pareto import front
from clipperf.report.records import Row
from clipperf.report.words import driven, listed


@dataclass(frozen=True)
class Point:
    """A score, and the fastest row of what it belongs to."""

    score: Score
    row: Row

    @property
    def rate(self) -> float:
        """Its throughput."""
        return self.row.items_per_s or 0.0


def front_of(points: Sequence[Point]) -> list[Point]:
    """Those that no other point beats, slowest first."""
    kept = front(points, lambda p: (-p.rate, -p.score.value))
    return sorted(kept, key=lambda p: (p.rate, p.score.value))


def tradeoff_charts(
    rows: Sequence[Row], scores: Sequence[Score], labels: dict[str, str]
) -> tuple[Chart, ...]:
    """One chart of the first metric of each dataset, on each machine and tower.

    A point is a model in a setup at its fastest batch there. Models with random weights are left
    out, and so is a chart of one point.
    """
    fastest: dict[tuple, Row] = {}
    for row in rows:
        if row.items_per_s is not None and not row.random_weights:
            key = (row.env_id, row.cell.side, judged(row.cell))
            held = fastest.get(key)
            if held is None or row.items_per_s > (held.items_per_s or 0.0):
                fastest[key] = row
    first: dict[tuple[str, str], str] = {}
    for score in scores:
        first.setdefault((score.dataset, score.dataset_sha256), score.metric)
    groups: dict[tuple, dict[tuple, Point]] = {}
    for score in scores:
        data = (score.dataset, score.dataset_sha256)
        if score.metric != first[data] or score.group or score.aim != "high":
            continue
        found = fastest.get((score.env_id, score.cell.side, judged(score.cell)))
        if found is not None and not score.random_weights and 0 <= score.value <= 1:
            points = groups.setdefault((score.env_id, score.cell.side, *data), {})
            points[judged(score.cell)] = Point(score, found)
    series = series_of(rows)
    several = [list(points.values()) for points in groups.values() if len(points) > 1]
    return tuple(_chart(points, series, labels) for points in several)


def _name(point: Point, points: Sequence[Point]) -> str:
    """What tells a point from the others."""
    cell = point.row.cell
    parts = [cell.model_id] if len({p.row.cell.model_id for p in points}) > 1 else []
    parts.append(cell.setup)
    parts += [cell.device] if len({p.row.cell.device for p in points}) > 1 else []
    return " ".join(parts)


def _chart(points: Sequence[Point], series: dict[str, int], labels: dict[str, str]) -> LineChart:
    score, unit = points[0].score, ITEMS[points[0].row.cell.side]
    best = front_of(points)
    where = f" · {labels[score.env_id]}" if len(labels) > 1 else ""
    told = [
        f"{_name(p, points)} ({units.rate(p.rate)} {unit} at batch {p.row.cell.batch}"
        f"{driven(p.row.cell)}, {units.share(p.score.value)})"
        for p in best
    ]
    lines = [Line("front", tuple((p.rate, p.score.value) for p in best), None, marked=False)]
    for setup, number in series.items():
        own = [p for p in points if p.row.setup == setup]
        texts = tuple(_name(p, points) if p in best else "" for p in own)
        ends = tuple(p.score.ci95 for p in own)
        places = tuple((p.rate, p.score.value) for p in own)
        lines += [Line(setup, places, number, texts, ends, drawn=False)] if own else []
    x_range, x_ticks = axis([p.rate for p in points], units.rate)
    known = [end for p in points for end in (*p.score.ci95, p.score.value)]
    y_range, y_ticks = even_axis(min(known), max(known), _percent)
    return LineChart(
        title=f"{score.dataset} {score.metric} over throughput{where}",
        description=(
            f"Each setup at its fastest batch; further right and further up is better. On the "
            f"front, where nothing measured is as fast and more accurate or as accurate and "
            f"faster: {listed(told)}. Whiskers are 95 % intervals of the accuracy: where they "
            f"meet, only paired differences tell two apart. Throughput is logarithmic."
        ),
        x_label=unit,
        x_range=x_range,
        x_ticks=x_ticks,
        y_range=y_range,
        y_ticks=y_ticks,
        lines=tuple(lines),
        scales=(True, False),
    )


def _percent(value: float) -> str:
    return f"{round(value * 100, 6):g} %"
