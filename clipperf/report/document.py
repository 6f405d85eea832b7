"""A whole report before it takes a format: sections of tables and charts, and its origins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from clipperf import units
from clipperf.nouns.result import Environment, ResultFile
from clipperf.report.charts import Chart
from clipperf.report.table import Table
from clipperf.serialize import to_json


@dataclass(frozen=True)
class Section:
    """A heading with its tables and charts; `key` is its anchor."""

    key: str
    title: str
    intro: str
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Origin:
    """One result file: what wrote it, when, where, and how much is in it."""

    path: str
    kind: str
    command: str
    created_utc: str
    environment: str
    measurements: int
    scores: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """Everything that a format renders; the formats compute nothing.

    `environment` pairs each label ("E1") with what is known of the machine. `records` are the
    figures themselves in SI units (seconds, bytes, shares), one flat dict a row, for CSV and JSON.
    `results` are the files that it is of, for whoever hands them on. `recommendation` is what to
    run, with which the findings begin.
    """

    title: str
    findings: tuple[str, ...]
    caveats: tuple[str, ...]
    sections: tuple[Section, ...]
    environment: tuple[tuple[str, Environment | None], ...]
    provenance: tuple[Origin, ...]
    records: tuple[dict[str, Any], ...]
    sizing: dict[str, Any] | None = None
    results: tuple[ResultFile, ...] = ()
    recommendation: tuple[str, ...] = ()


def describe(environment: Environment | None) -> str:
    """A machine in one line."""
    if environment is None:
        return "not described in these files"
    parts = [
        environment.cpu,
        f"{environment.cores} cores",
        f"{units.size(environment.ram_bytes)} RAM",
    ]
    if environment.gpu:
        parts.append(f"{environment.gpu}, {units.size(environment.vram_bytes)} VRAM")
    else:
        parts.append("no GPU")
    parts += [environment.os, f"Python {environment.python}"]
    parts += [f"{name} {version}" for name, version in sorted(environment.versions.items())]
    return ", ".join(parts)


def plain_json(value: Any) -> Any:
    """Records as plain JSON values, with None for every NaN and infinity."""
    return _without_nan(to_json(value))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return value
