"""From image files to vectors: where the time goes, and what holds it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipperf import stats, units
from clipperf.nouns.from_files import FileRun
from clipperf.nouns.result import ResultFile
from clipperf.report.columns import Column, cell_columns, tabulate, who_columns
from clipperf.report.measured import Measured, newest
from clipperf.report.records import labels_of
from clipperf.report.table import Table, Value
from clipperf.serialize import to_json
from clipperf.text import one_line

IDLE_SHARE = 0.10
"""An engine that waits for less of the time is what holds everything up."""


@dataclass(frozen=True)
class Line(Measured):
    """One way of one cell; `run` is None where the cell failed."""

    run: FileRun | None

    @property
    def method(self) -> str | None:
        """How pixels are made."""
        return None if self.run is None else self.run.way.method

    @property
    def threads(self) -> int | None:
        """By how many threads."""
        return None if self.run is None else self.run.way.threads

    @property
    def images_per_s(self) -> float | None:
        """By the median batch."""
        if self.run is None or not self.run.engine_s:
            return None
        return self.cell.batch / stats.median(self.run.batch_s)

    @property
    def idle_share(self) -> float | None:
        """The share of the time in which the engine waited for pixels, by medians."""
        if self.run is None or not self.run.engine_s:
            return None
        wait_s, engine_s = stats.median(self.run.wait_s), stats.median(self.run.engine_s)
        return wait_s / (wait_s + engine_s)


def lines_of(results: Sequence[ResultFile]) -> list[Line]:
    """Every way of every cell, the newest of each machine, in the order of the cost tables."""
    rows = newest(results, "files")
    return [Line(row, run) for row in rows for run in row.file_runs or (None,)]


def files_table(results: Sequence[ResultFile]) -> Table | None:
    """Images a second from files, and the parts of an image's way; None without such rows."""
    lines = lines_of(results)
    if not lines:
        return None
    columns: list[Column[Line]] = [
        *who_columns(labels_of(results)),
        *cell_columns(("Device", "Threads", "Batch", "Runtime"), lines),
        Column("Pixels", lambda line: line.method, "words", key=True),
        Column("On threads", lambda line: line.threads),
        Column("Images/s", _rate, "rate"),
        Column("Decode ms", lambda line: _alone(line, "decode_s"), "ms"),
        Column("Resize ms", lambda line: _alone(line, "resize_s"), "ms"),
        Column("Engine ms", lambda line: seconds_an_image(line, "engine_s"), "ms"),
        Column("Idle ms", lambda line: seconds_an_image(line, "wait_s"), "ms"),
        Column("Held up by", held_up_by, "note", "empty", key=True),
    ]
    return tabulate("From files", columns, lines, findings=_findings(lines), caveats=LEGEND)


LEGEND = (
    "Milliseconds of one image. Decode (with reading the file, which is in memory) and Resize are "
    "of one thread while nothing else ran; Engine is its time in batches, and Idle how long the "
    "engine waited for pixels, while threads made the next batch beside it.",
)


def _rate(line: Line) -> Value:
    run, rate = line.run, line.images_per_s
    if run is None or rate is None:
        return Value(None, "rate")
    interval = stats.median_interval(run.batch_s)
    low_high = None if interval is None else tuple(line.cell.batch / s for s in reversed(interval))
    return Value(rate, "rate", low_high)  # type: ignore[arg-type]


def seconds_an_image(line: Line, name: str) -> float | None:
    """The median of `engine_s` or `wait_s`, of one image; None where a cell failed."""
    samples = getattr(line.run, name, ())
    return stats.median(samples) / line.cell.batch if samples else None


def _alone(line: Line, name: str) -> float | None:
    return None if line.run is None else float(getattr(line.run, name))


def held_up_by(line: Line) -> str:
    """What would have to be faster, in words; why there is nothing where a cell failed."""
    idle = line.idle_share
    if line.run is None or idle is None:
        return one_line(line.measured.error or "no time left for a batch")
    if idle < IDLE_SHARE:
        return "the engine"
    larger = "decoding" if line.run.decode_s >= line.run.resize_s else "resizing"
    return f"{larger}: the engine waits {units.percent(idle, 0)} % of the time"


def _findings(lines: Sequence[Line]) -> list[str]:
    """The fastest way of each cell that has several, over the first one."""
    found = []
    for cell in dict.fromkeys(line.cell for line in lines):
        own = [line for line in lines if line.cell == cell and line.images_per_s is not None]
        if len(own) < 2:
            continue
        best = max(own, key=lambda line: line.images_per_s or 0.0)
        first, run = own[0], best.run
        if best is first or run is None or first.run is None:
            continue
        ratio = (best.images_per_s or 0.0) / (first.images_per_s or 1.0)
        found.append(
            f"{cell.model_id}, {cell.setup}, batch {cell.batch}: {_said(run)} are "
            f"{units.ratio(ratio)} as fast as {_said(first.run)}."
        )
    return found


def _said(run: FileRun) -> str:
    threads = "the caller's thread" if run.way.threads == 0 else f"{run.way.threads} threads"
    return f"{run.way.method} pixels on {threads}"


def files_findings(results: Sequence[ResultFile]) -> list[str]:
    """As the table's; none without such rows."""
    return _findings(lines_of(results))


def files_record(line: Line) -> dict[str, Any]:
    """A way of a cell in SI units, flat; seconds are of one image."""
    return {
        "record": "files",
        **to_json(line.cell),
        "env_id": line.env_id,
        "status": line.measured.status,
        "method": line.method,
        "preprocess_threads": line.threads,
        "images_per_s": line.images_per_s,
        "decode_s": _alone(line, "decode_s"),
        "resize_s": _alone(line, "resize_s"),
        "engine_s": seconds_an_image(line, "engine_s"),
        "idle_s": seconds_an_image(line, "wait_s"),
        "idle_share": line.idle_share,
        "held_up_by": held_up_by(line),
        "random_weights": line.random_weights,
    }
