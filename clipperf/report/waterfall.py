"""From file to vector, step by step: where the time of an image goes."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf import stats, units
from clipperf.report.charts import Bar, BarChart, Chart
from clipperf.report.columns import model_name
from clipperf.report.from_files import Line, held_up_by, seconds_an_image
from clipperf.report.pairs import alike
from clipperf.report.records import Row
from clipperf.report.words import apart

STEPS = ("decode", "resize", "copy in", "engine", "copy out", "idle")
"""In their order; each has a colour of its own in all charts."""


def waterfall_charts(
    lines: Sequence[Line], rows: Sequence[Row], labels: dict[str, str]
) -> tuple[Chart, ...]:
    """A chart of each model on each machine, with a group of steps for each way from files.

    `rows` are those of the cost table: of an engine on a GPU they say which share of a run is
    copies.
    """
    known = [line for line in lines if line.images_per_s is not None]
    charts = []
    for env_id, model_id in dict.fromkeys((x.env_id, x.cell.model_id) for x in known):
        mine = [x for x in known if (x.env_id, x.cell.model_id) == (env_id, model_id)]
        groups = tuple((_name(x, mine), _bars(steps_of(x, rows))) for x in mine)
        best = max(mine, key=lambda x: x.images_per_s or 0.0)
        where = f" · {labels[env_id]}" if len(labels) > 1 else ""
        charts.append(
            BarChart(
                title=f"From file to vector, an image: "
                f"{model_name(model_id, best.random_weights).text}{where}",
                description=(
                    "Each step begins where the one before ends. Decoding and resizing are of one "
                    "thread while nothing else runs; where threads do them they run beside the "
                    "engine, which then waits for as long as it is idle. Most images a second: "
                    f"{_name(best, mine)}, {units.rate(best.images_per_s)}; held up by "
                    f"{held_up_by(best)}."
                ),
                groups=groups,
            )
        )
    return tuple(charts)


def steps_of(line: Line, rows: Sequence[Row]) -> list[tuple[str, float]]:
    """The seconds of an image's steps; copies apart where the GPU's events tell them."""
    run = line.run
    assert run is not None
    engine_s = seconds_an_image(line, "engine_s") or 0.0
    shares = _copies(line, rows)
    found = [("decode", run.decode_s), ("resize", run.resize_s)]
    if shares is None:
        found.append(("engine", engine_s))
    else:
        first, last = shares
        found += [
            ("copy in", first * engine_s),
            ("engine", (1 - first - last) * engine_s),
            ("copy out", last * engine_s),
        ]
    return [*found, ("idle", seconds_an_image(line, "wait_s") or 0.0)]


def _copies(line: Line, rows: Sequence[Row]) -> tuple[float, float] | None:
    """The shares of a run that copy in and out, of the same cell in a closed loop.

    Of the run by the host's clock, as the engine's time from files is; without one, of what the
    GPU's events tell. What is neither a copy nor computed is the engine's.
    """
    same = (
        row.time.phases_s
        for row in rows
        if row.env_id == line.env_id
        and alike(row.cell, "scenario") == alike(line.cell, "scenario")
        and row.time is not None
        and row.time.phases_s is not None
    )
    phases = next(same, None)
    if phases is None or not all(phases.get(name) for name in ("h2d", "compute", "d2h")):
        return None
    first, middle, last = (stats.median(phases[name]) for name in ("h2d", "compute", "d2h"))
    host_s = stats.median(phases["host"]) if phases.get("host") else 0.0
    whole = max(host_s, first + middle + last)
    return (first / whole, last / whole) if whole > 0 else None


def _bars(steps: Sequence[tuple[str, float]]) -> tuple[Bar, ...]:
    bars: list[Bar] = []
    start = 0.0
    for name, seconds in steps:
        text = units.seconds(seconds)
        bars.append(Bar(name, seconds, None, text, STEPS.index(name), start=start))
        start += seconds
    return tuple(bars)


def _name(line: Line, lines: Sequence[Line]) -> str:
    """What tells a way from the others."""
    run = line.run
    assert run is not None
    cells = [x.cell for x in lines]
    told = f"{line.cell.setup}, batch {line.cell.batch}"
    told += apart(line.cell, cells, "device", "threads", "streams", "instances")
    cell = f"{told}, " if len(set(cells)) > 1 else ""
    threads = "the caller's thread" if run.way.threads == 0 else f"{run.way.threads} threads"
    return f"{cell}{run.way.method} on {threads}"
