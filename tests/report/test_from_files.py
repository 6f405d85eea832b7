"""From files to vectors in a report: figures by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from report_data import ENVIRONMENT, result

from clipperf.nouns.cell import Cell
from clipperf.nouns.from_files import FROM_FILES, FileRun, Way
from clipperf.nouns.result import Measurement
from clipperf.report.build import build_report
from clipperf.report.format import render
from clipperf.report.from_files import files_findings, files_table, lines_of

CELL = Cell("m", "image", "onnx", "fp32", "cpu", 4, 2, scenario=FROM_FILES)

SLOW = FileRun(Way("exact", 0), 0.004, 0.006, (0.02, 0.02, 0.02), (0.06, 0.06, 0.30), (0, 0, 1))
FAST = FileRun(Way("draft", 2), 0.002, 0.001, (0.019,) * 3, (0.001,) * 3, (0, 0, 1), True)
DECODES = FileRun(Way("fast", 1), 0.005, 0.001, (0.02,) * 3, (0.02,) * 3, (0, 0, 1), True)


def row(*runs: FileRun, **changes: Any) -> Measurement:
    changes = {"status": "ok", **changes}
    return Measurement(CELL, "files", env_id=ENVIRONMENT.id, file_runs=runs, **changes)


def test_rates_are_of_the_median_batch_and_parts_of_one_image() -> None:
    slow, fast, _ = lines_of([result([row(SLOW, FAST, DECODES)])])
    assert slow.images_per_s == pytest.approx(4 / 0.08)
    assert slow.idle_share == pytest.approx(0.75), "of medians: one slow batch says nothing"
    assert fast.images_per_s == pytest.approx(4 / 0.02)
    table = files_table([result([row(SLOW, FAST, DECODES)])])
    assert table is not None
    names = [heading.name for heading in table.columns]
    shown = [dict(zip(names, (value.value for value in line), strict=True)) for line in table.rows]
    assert [line["Engine ms"] for line in shown] == pytest.approx([0.005, 0.00475, 0.005])
    assert [line["Idle ms"] for line in shown] == pytest.approx([0.015, 0.00025, 0.005])
    assert [line["Held up by"] for line in shown] == [
        "resizing: the engine waits 75 % of the time",
        "the engine",
        "decoding: the engine waits 50 % of the time",
    ]


def test_the_fastest_way_is_named_over_the_first() -> None:
    assert files_findings([result([row(SLOW, DECODES, FAST)])]) == [
        "m, onnx fp32, batch 4: draft pixels on 2 threads are 4.00x as fast as exact pixels on "
        "the caller's thread."
    ]
    assert files_findings([result([row(SLOW)])]) == []
    assert files_findings([result([row(FAST, SLOW)])]) == [], "the first is the fastest"


def test_the_newest_row_counts_and_a_failed_one_says_why() -> None:
    old = dataclasses.replace(result([row(SLOW)]), created_utc="2020-01-01T00:00:00Z")
    new = dataclasses.replace(
        result([row(status="failed", error="out of memory")]), created_utc="2021-01-01T00:00:00Z"
    )
    (line,) = lines_of([new, old])
    assert (line.run, line.images_per_s) == (None, None)
    text = render(build_report([new, old]), "text")
    assert "out of memory" in text
    records = build_report([old]).records
    assert [r["record"] for r in records] == ["files"]
    assert records[0]["images_per_s"] == pytest.approx(50)
    assert records[0]["engine_s"] == pytest.approx(0.005)


def test_no_cost_of_an_engine_alone_is_made_of_them() -> None:
    document = build_report([result([row(SLOW)])])
    assert [section.key for section in document.sections] == ["files"]
