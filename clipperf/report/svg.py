"""Charts as inline SVG: no script, no font, no file from elsewhere; readable in print.

Colours are the classes s0 to s5 of the page's style sheet; lines differ by dash as well, and
every bar carries its label and value as text, so nothing hangs on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from clipperf.report.charts import BarChart, Chart, LineChart
from clipperf.text import printable

COLOURS = 6
WIDTH = 560
BAR, GAP, HEAD = 18, 6, 24
LEFT, RIGHT = 96, 64
DASHES = ("", "7 4", "2 3", "10 3 2 3", "5 2", "1 2")


def draw(chart: Chart, identifier: str) -> str:
    """One chart as an `svg` element; `identifier` must be unique in the page."""
    return _bars(chart, identifier) if isinstance(chart, BarChart) else _lines(chart, identifier)


def _frame(chart: Chart, identifier: str, height: float, parts: list[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'aria-labelledby="{identifier}-t {identifier}-d">'
        f'<title id="{identifier}-t">{_escaped(chart.title)}</title>'
        f'<desc id="{identifier}-d">{_escaped(chart.description)}</desc>{"".join(parts)}</svg>'
    )


def _escaped(text: str) -> str:
    return escape(printable(text))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{_escaped(text)}</text>'


def _bars(chart: BarChart, identifier: str) -> str:
    top = max(
        (b.interval[1] if b.interval else b.value for _, bars in chart.groups for b in bars),
        default=0.0,
    )
    scale = (WIDTH - LEFT - RIGHT) / top if top > 0 else 0.0
    parts, y = [], 0.0
    for name, bars in chart.groups:
        parts.append(_text(0, y + 16, name, "group"))
        y += HEAD
        for bar in bars:
            middle = y + BAR / 2
            end = LEFT + bar.value * scale
            parts.append(_text(LEFT - 8, middle + 4, bar.label, anchor="end"))
            if bar.value > 0:
                parts.append(
                    f'<rect class="s{bar.series % COLOURS}" x="{LEFT}" y="{y:.1f}" '
                    f'width="{max(1.0, end - LEFT):.1f}" height="{BAR}" rx="2"/>'
                )
            if bar.interval is not None:
                low, high = (LEFT + v * scale for v in bar.interval)
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


def _lines(chart: LineChart, identifier: str) -> str:
    left, top, right, bottom = 64.0, 30.0, WIDTH - 16.0, 262.0
    x_at = _log_scale([x for x, _ in chart.x_ticks], left + 14, right - 14)
    y_at = _log_scale(chart.y_range, bottom, top + 10)
    parts = []
    for y, label in chart.y_ticks:
        at = y_at(y)
        parts.append(f'<path class="grid" d="M{left:.1f} {at:.1f}H{right:.1f}"/>')
        parts.append(_text(left - 8, at + 4, label, anchor="end"))
    for x, label in chart.x_ticks:
        parts.append(_text(x_at(x), bottom + 20, label, anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 38, chart.x_label, anchor="middle"))
    legend = left
    for line in chart.lines:
        kind = f"s{line.series % COLOURS}"
        dash = DASHES[line.series % len(DASHES)]
        stroke = f' stroke-dasharray="{dash}"' if dash else ""
        places = [(x_at(x), y_at(y)) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="line {kind}"{stroke} d="M{path}"/>')
        parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
        parts.append(f'<path class="line {kind}"{stroke} d="M{legend:.1f} 12h22"/>')
        parts.append(_text(legend + 28, 16, line.label))
        legend += 48 + 7.2 * len(line.label)
    return _frame(chart, identifier, bottom + 46, parts)


def _log_scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = math.log(min(values)), math.log(max(values))

    def at(value: float) -> float:
        if high == low:
            return (start + end) / 2
        return start + (math.log(value) - low) / (high - low) * (end - start)

    return at
