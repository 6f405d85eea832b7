"""Speeds that others published, on hardware of theirs: apart from all that was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipperf.models.family import CatalogEntry
from clipperf.models.published import normal
from clipperf.models.speeds import RYZEN, Speed, newest, query_times, speeds_of
from clipperf.report.columns import KEY, Column, tabulate
from clipperf.report.table import Table
from clipperf.units import MIB

CAVEATS = (
    "Nothing in this table was measured here, and its rows differ in more than their hardware: "
    "program, precision, batch. Of each way to run a tower it shows the newest.",
    "timm: image towers alone, in the largest batch that fitted. CLIP-as-service: queries to a "
    "whole server, decoding in it; texts of very different towers have like rates, so something "
    "else bounds them.",
)

QUERY_TIMES = (
    f"Immich: {RYZEN} without acceleration, ONNX Runtime fp32; RAM is the process's peak. Which "
    "tower its milliseconds are of is not said, and they would be too few for the images', so "
    "they are quoted and nothing is sized by them."
)


@dataclass(frozen=True)
class Line:
    """A published speed of a model, or what Immich tells of it."""

    model_id: str
    hardware: str
    side: str
    setup: str
    batch: int | None
    per_s: float | None
    source: str
    date: str | None
    seconds: float | None = None
    ram_bytes: int | None = None


def names_of(entry: CatalogEntry) -> list[str]:
    """A listed model's names: with each of its tags, or the architecture's alone."""
    return [f"{entry.architecture}::{tag}" for tag in entry.tags] or [entry.architecture]


def speed_lines(model_ids: Sequence[str]) -> list[Line]:
    """The newest published speeds of some models by hardware; none where none is published.

    Models of one architecture that share a figure stand in one line, under the architecture.
    """
    lines: dict[tuple[str, str, str, str], Line] = {}
    for model_id in dict.fromkeys(model_ids):
        for speed in newest(speeds_of(model_id)):
            line = _line(model_id, speed)
            lines.setdefault((line.model_id, line.hardware, line.side, line.setup), line)
        for time in query_times():
            if normal(time.model) == normal(model_id):
                line = Line(
                    time.model, RYZEN, "not said", "Immich, ONNX Runtime fp32", None, None,
                    "immich-app/immich, docs/docs/features/searching.md", None,
                    time.execution_ms / 1e3, time.memory_mib * MIB,
                )  # fmt: skip
                lines.setdefault((line.model_id, line.hardware, line.side, line.setup), line)
    return sorted(
        lines.values(), key=lambda x: (x.model_id, x.hardware, x.side, -(x.per_s or 0.0), x.setup)
    )


def speeds_table(model_ids: Sequence[str]) -> Table | None:
    """`speed_lines` as a table; None where none is published."""
    shown = speed_lines(model_ids)
    if not shown:
        return None
    columns: list[Column[Line]] = [
        Column("Model", lambda x: x.model_id, "words", "never", **KEY, split=True),
        Column("Hardware", lambda x: x.hardware, "words", **KEY),
        Column("Tower", lambda x: x.side, "words", key=True),
        Column("Setup", lambda x: x.setup, "words", key=True),
        Column("Batch", lambda x: x.batch, fold="empty"),
        Column("Inputs/s", lambda x: x.per_s, "rate", "empty"),
        Column("One query ms", lambda x: x.seconds, "ms", "empty"),
        Column("RAM MiB", lambda x: x.ram_bytes, "MiB", "empty"),
        Column("Published", lambda x: x.date, "words", "empty"),
        Column("Source", lambda x: x.source.partition(",")[0], "words"),
    ]
    caveats = [*CAVEATS]
    if any(line.seconds is not None for line in shown):
        caveats.append(QUERY_TIMES)
    return tabulate("Published speeds, measured by others", columns, shown, (), caveats)


def _line(model_id: str, speed: Speed) -> Line:
    """A tower's speed belongs to its architecture, a server's to the weights that it names."""
    name = speed.tower if speed.server else model_id.partition("::")[0]
    return Line(
        name, speed.hardware, speed.side, speed.setup, speed.batch, speed.per_s, speed.source,
        speed.date,
    )  # fmt: skip
