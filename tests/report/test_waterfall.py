"""The steps of an image from file to vector, by hand."""

from __future__ import annotations

import dataclasses

import pytest
from report_data import ENVIRONMENT, cell, result, timed

from clipperf.nouns.from_files import FROM_FILES, FileRun, Way
from clipperf.nouns.result import Measurement
from clipperf.report.build import build_report
from clipperf.report.charts import BarChart
from clipperf.report.from_files import lines_of
from clipperf.report.records import merge
from clipperf.report.svg import draw
from clipperf.report.waterfall import steps_of, waterfall_charts

LABELS = {"env-a": "E1"}
# A batch of 4: the engine runs 40 ms and waits 20 ms, 10 and 5 an image.
RUN = FileRun(Way("exact", 2), 0.006, 0.002, (0.04,) * 6, (0.02,) * 6, tuple(range(6)), True)


def files(device: str = "cpu", *more: Measurement) -> list:
    row = Measurement(
        cell(batch=4, device=device, scenario=FROM_FILES),
        "files",
        "ok",
        ENVIRONMENT.id,
        file_runs=(RUN, dataclasses.replace(RUN, way=Way("fast", 0), decode_s=0.003)),
    )
    return [result([row, *more])]


def test_each_step_begins_where_the_one_before_ends() -> None:
    (chart,) = waterfall_charts(lines_of(files()), [], LABELS)
    assert isinstance(chart, BarChart)
    assert chart.title == "From file to vector, an image: M::w"
    assert [name for name, _ in chart.groups] == [
        "exact on 2 threads",
        "fast on the caller's thread",
    ]
    bars = chart.groups[0][1]
    assert [bar.label for bar in bars] == ["decode", "resize", "engine", "idle"]
    assert [bar.value for bar in bars] == pytest.approx([0.006, 0.002, 0.010, 0.005])
    assert [bar.start for bar in bars] == pytest.approx([0, 0.006, 0.008, 0.018])
    assert "held up by decoding: the engine waits 33 % of the time" in chart.description
    # 560 wide, 96 to the left and 64 to the right: the longest way, 23 ms, takes 400.
    drawn = draw(chart, "c")
    assert f'x="{96 + 400 * 18 / 23:.1f}"' in drawn and f'width="{400 * 5 / 23:.1f}"' in drawn


def test_copies_are_apart_where_the_gpu_tells_them() -> None:
    phases = {"h2d": (0.01,) * 3, "compute": (0.06,) * 3, "d2h": (0.03,) * 3, "host": (0.1,) * 3}
    time = timed(cell(batch=4, device="cuda"), [0.1] * 6, phases_s=phases)
    given = files("cuda", time)
    steps = dict(steps_of(lines_of(given)[0], merge(given)))
    assert list(steps) == ["decode", "resize", "copy in", "engine", "copy out", "idle"]
    assert steps["copy in"] == pytest.approx(0.001)
    assert steps["engine"] == pytest.approx(0.006) and steps["copy out"] == pytest.approx(0.003)
    # Of the host's 120 ms 20 are neither a copy nor computed: of an image's 10 ms 10 / 120 are
    # copying in, 30 / 120 copying out, and the rest, 80 / 120, is the engine's.
    slower = timed(cell(batch=4, device="cuda"), [0.1] * 6, phases_s=phases | {"host": (0.12,) * 3})
    given = files("cuda", slower)
    steps = dict(steps_of(lines_of(given)[0], merge(given)))
    assert steps["copy in"] == pytest.approx(0.01 / 12)
    assert steps["copy out"] == pytest.approx(0.03 / 12)
    assert steps["engine"] == pytest.approx(0.08 / 12)
    other = timed(cell(batch=8, device="cuda"), [0.1] * 6, phases_s=phases)
    given = files("cuda", other)
    assert "copy in" not in dict(steps_of(lines_of(given)[0], merge(given)))


def test_it_stands_in_the_report() -> None:
    document = build_report(files("cpu", timed(cell(batch=4), [0.1] * 6)))
    (section,) = [s for s in document.sections if s.key == "files"]
    assert [chart.title for chart in section.charts] == ["From file to vector, an image: M::w"]
    assert waterfall_charts([], [], LABELS) == ()


def test_cells_are_told_apart_by_whatever_differs() -> None:
    both = [*files(), *files("cuda")]
    (chart,) = waterfall_charts(lines_of(both), [], LABELS)
    assert isinstance(chart, BarChart)
    assert sorted(name for name, _ in chart.groups) == [
        "torch fp32, batch 4, cpu, exact on 2 threads",
        "torch fp32, batch 4, cpu, fast on the caller's thread",
        "torch fp32, batch 4, cuda, exact on 2 threads",
        "torch fp32, batch 4, cuda, fast on the caller's thread",
    ]
