"""Charts as inline SVG: no script, no font, no file from elsewhere; readable in print.

Colours are the classes s0 to s5 of the page's style sheet; lines differ by dash as well, and
every bar carries its label and value as text, so nothing hangs on colour alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from clipperf.report.charts import Bar, BarChart, BoxChart, Chart, Line, LineChart
from clipperf.text import printable

COLOURS = 6
WIDTH = 560
BAR, GAP, HEAD = 18, 6, 24
LEFT, RIGHT = 96, 64
LETTER = 7.2
"""About the width of a letter, with some room to spare."""
LONGEST = 28
"""Letters of a label; the tables have the whole of it."""
DASHES = ("", "7 4", "2 3", "10 3 2 3", "5 2", "1 2")


def draw(chart: Chart, identifier: str) -> str:
    """One chart as an `svg` element; `identifier` must be unique in the page.

    Its title is its name; its description is text, which the page has beside it.
    """
    if isinstance(chart, BarChart):
        return _bars(chart, identifier)
    return _boxes(chart, identifier) if isinstance(chart, BoxChart) else _lines(chart, identifier)


def _frame(chart: Chart, identifier: str, height: float, parts: list[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height:.0f}" aria-labelledby="{identifier}-t">'
        f'<title id="{identifier}-t">{_escaped(chart.title)}</title>{"".join(parts)}</svg>'
    )


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def _margin(labels: Iterable[str]) -> float:
    """Where bars begin: behind the longest label."""
    return max(LEFT, LETTER * max((len(_cut(label)) for label in labels), default=0) + 14)


def _escaped(text: str) -> str:
    return escape(printable(text))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{_escaped(text)}</text>'


def _reach(bar: Bar) -> float:
    return bar.interval[1] if bar.interval else bar.start + bar.value


def _bars(chart: BarChart, identifier: str) -> str:
    top = max((_reach(bar) for _, bars in chart.groups for bar in bars), default=0.0)
    left = _margin(bar.label for _, bars in chart.groups for bar in bars)
    scale = (WIDTH - left - RIGHT) / top if top > 0 else 0.0
    parts, y = [], 0.0
    for name, bars in chart.groups:
        parts.append(_text(0, y + 16, name, "group"))
        y += HEAD
        for bar in bars:
            middle = y + BAR / 2
            begin = left + bar.start * scale
            end = begin + bar.value * scale
            parts.append(_text(left - 8, middle + 4, _cut(bar.label), anchor="end"))
            if bar.value > 0:
                parts.append(
                    f'<rect class="s{bar.series % COLOURS}" x="{begin:.1f}" y="{y:.1f}" '
                    f'width="{max(1.0, end - begin):.1f}" height="{BAR}" rx="2"/>'
                )
            if bar.interval is not None:
                low, high = (left + v * scale for v in bar.interval)
                parts.append(
                    f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}'
                    f"M{low:.1f} {middle - 4:.1f}v8"
                    f'M{high:.1f} {middle - 4:.1f}v8"/>'
                )
                end = max(end, high)
            parts.append(_text(end + 6, middle + 4, bar.text, "value"))
            y += BAR + GAP
        y += 8
    return _frame(chart, identifier, y, parts)


def _boxes(chart: BoxChart, identifier: str) -> str:
    left = _margin(box.label for _, boxes in chart.groups for box in boxes)
    words = max((len(box.text) for _, boxes in chart.groups for box in boxes), default=0)
    x_at = _scale(chart.x_range, left, WIDTH - 16.0 - LETTER * words, False)
    parts, y = [], 0.0
    for name, boxes in chart.groups:
        parts.append(_text(0, y + 16, name, "group"))
        y += HEAD
        for box in boxes:
            middle = y + BAR / 2
            low, high = map(x_at, box.ends)
            parts.append(_text(left - 8, middle + 4, _cut(box.label), anchor="end"))
            parts.append(
                f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}'
                f'M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"/>'
            )
            if box.quartiles is not None:
                start, end = map(x_at, box.quartiles)
                parts.append(
                    f'<rect class="s{box.series % COLOURS}" x="{start:.1f}" y="{y + 2:.1f}" '
                    f'width="{max(1.0, end - start):.1f}" height="{BAR - 4}" rx="2"/>'
                )
            at = x_at(1.0)
            parts.append(f'<path class="median" d="M{at:.1f} {y:.1f}v{BAR}"/>')
            parts.append(_text(high + 8, middle + 4, box.text, "value"))
            y += BAR + GAP
        y += 8
    for x, label in _with_room(chart.x_ticks, x_at):
        parts.append(f'<path class="grid" d="M{x_at(x):.1f} {y - 4:.1f}v-5"/>')
        parts.append(_text(x_at(x), y + 12, label, anchor="middle"))
    return _frame(chart, identifier, y + 20, parts)


def _lines(chart: LineChart, identifier: str) -> str:
    left, right = 76.0, WIDTH - 16.0
    legend, top = _legend(chart.lines, left)
    bottom = top + 232.0
    x_at = _scale(chart.x_range, left + 14, right - 14, chart.scales[0])
    y_at = _scale(chart.y_range, bottom, top + 10, chart.scales[1])
    parts = []
    for y, label in chart.y_ticks:
        at = y_at(y)
        parts.append(f'<path class="grid" d="M{left:.1f} {at:.1f}H{right:.1f}"/>')
        parts.append(_text(left - 8, at + 4, label, anchor="end"))
    for x, label in _with_room(chart.x_ticks, x_at):
        parts.append(_text(x_at(x), bottom + 20, label, anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 38, chart.x_label, anchor="middle"))
    for line in chart.lines:
        places = [(x_at(x), y_at(y)) for x, y in line.points]
        if line.drawn:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path class="line {_kind(line)}"{_dash(line)} d="M{path}"/>')
        for (x, _), ends in zip(places, line.whiskers, strict=False):
            if ends is not None:
                low, high = map(y_at, ends)
                parts.append(
                    f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}'
                    f'M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"/>'
                )
        if line.marked:
            kind = _kind(line)
            parts += [
                f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places
            ]
        for (x, y), text in zip(places, line.texts, strict=False):
            late = x > (left + right) / 2  # there its text stands before it
            place, anchor = (x - 7, "end") if late else (x + 7, "start")
            parts.append(_text(place, y - 6, _cut(text), anchor=anchor))
    return _frame(chart, identifier, bottom + 46, [*parts, *legend])


def _kind(line: Line) -> str:
    return "front" if line.series is None else f"s{line.series % COLOURS}"


def _dash(line: Line) -> str:
    dash = "4 4" if line.series is None else DASHES[line.series % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _legend(lines: Sequence[Line], left: float) -> tuple[list[str], float]:
    """What the lines are, in as many rows as it takes, and where the chart begins below them."""
    parts, x, y = [], left, 12.0
    for line in lines:
        if not line.label:
            continue
        width = 36 + LETTER * len(_cut(line.label))
        if x > left and x + width > WIDTH:
            x, y = left, y + 18
        if line.drawn:
            parts.append(f'<path class="line {_kind(line)}"{_dash(line)} d="M{x:.1f} {y:.1f}h22"/>')
        else:
            parts.append(f'<circle class="{_kind(line)}" cx="{x + 11:.1f}" cy="{y:.1f}" r="3.5"/>')
        parts.append(_text(x + 28, y + 4, _cut(line.label)))
        x += width + 12
    return parts, y + 18


def _with_room(
    ticks: Sequence[tuple[float, str]], x_at: Callable[[float], float]
) -> Sequence[tuple[float, str]]:
    """All ticks, else every second, third, ..., so that no label runs into the next."""
    for step in range(1, len(ticks)):
        kept = ticks[::step]
        if all(
            x_at(b) - x_at(a) >= LETTER * (1 + (len(left) + len(right)) / 2)
            for (a, left), (b, right) in itertools.pairwise(kept)
        ):
            return kept
    return ticks[:1]


def _scale(
    values: Sequence[float], start: float, end: float, logarithmic: bool
) -> Callable[[float], float]:
    """Where a value lies between two places, from the least of some values to the largest."""

    def turned(value: float) -> float:
        return math.log(value) if logarithmic else value

    low, high = turned(min(values)), turned(max(values))

    def at(value: float) -> float:
        if high == low:
            return (start + end) / 2
        return start + (turned(value) - low) / (high - low) * (end - start)

    return at
