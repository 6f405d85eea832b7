"""Charts of latency: points by hand, and boxes that few calls do not get."""

from __future__ import annotations

import itertools
import re

import pytest
from report_data import ENVIRONMENT, cell, result, timed

from clipperf import stats
from clipperf.nouns.result import Measurement
from clipperf.nouns.serving import Serving, ServingRun, Trial
from clipperf.report.charts import BoxChart, LineChart
from clipperf.report.latency import FEWEST_FOR_QUARTILES, answer_charts, latency_charts
from clipperf.report.records import merge
from clipperf.report.serving import lines_of
from clipperf.report.svg import draw

LABELS = {"env-a": "E1"}


def test_latency_over_throughput_has_a_point_a_batch() -> None:
    measured = [
        timed(cell(batch=8), [0.4] * 6),
        timed(cell(batch=1), [0.1] * 6),
        timed(cell(runtime="onnx", batch=8), [0.1] * 6),
    ]
    over, spread = latency_charts(merge([result(measured)]), LABELS)
    assert isinstance(over, LineChart) and isinstance(spread, BoxChart)
    lines = {line.label: (line.points, line.texts) for line in over.lines}
    assert lines == {
        "torch fp32": (((10.0, 0.1), (20.0, 0.4)), ("1", "8")),
        "onnx fp32": (((80.0, 0.1),), ("8",)),
    }
    assert over.x_range == (10.0, 100.0) and over.y_range == (0.1, 0.5)
    assert "Most: onnx fp32 at batch 8, 80.0 images/s at 100 ms a batch." in over.description
    assert "further right and further down is better" in over.description


def test_one_batch_has_no_latency_over_throughput() -> None:
    (only,) = latency_charts(merge([result([timed(cell(), [0.1] * 6)])]), LABELS)
    assert isinstance(only, BoxChart)
    assert latency_charts([], LABELS) == ()


def test_calls_are_drawn_over_their_median() -> None:
    calls = [0.1 * (1 + i / 100) for i in range(-20, 21)]  # 41 of them: 0.08 to 0.12 s
    measured = [timed(cell(), calls), timed(cell(runtime="onnx"), [0.2, 0.2, 0.3])]
    chart, _ = latency_charts(merge([result(measured)]), LABELS)
    assert isinstance(chart, BoxChart)
    ((name, (many, few)),) = chart.groups
    assert name == "Batch 1"
    assert many.ends == pytest.approx((0.8, 1.2)) and many.text == "100 ms"
    assert many.quartiles == pytest.approx((0.9, 1.1))
    assert few.ends == pytest.approx((1.0, 1.5)) and few.quartiles is None
    assert "1.50 times the median: onnx fp32 at batch 1, of 3 calls" in chart.description
    drawn = draw(chart, "c")
    assert drawn.count("<rect") == 1 and drawn.count('class="median"') == 2


def test_quartiles_begin_where_the_statistics_do() -> None:
    assert stats.quantile([1.0] * FEWEST_FOR_QUARTILES, 0.25) is not None
    assert stats.quantile([1.0] * (FEWEST_FOR_QUARTILES - 1), 0.25) is None


def test_calls_within_a_time_by_hand() -> None:
    # 100 calls of 1 to 100 ms in an order of their own; 20 of another are too few.
    calls = [0.001 * (1 + (37 * n) % 100) for n in range(100)]
    rows = merge([result([timed(cell(), calls), timed(cell(runtime="onnx"), calls[:20])])])
    (chart,) = [c for c in latency_charts(rows, LABELS) if c.title.startswith("Calls within")]
    assert isinstance(chart, LineChart)
    (line,) = chart.lines
    assert line.label == "torch fp32, batch 1" and len(line.points) == 60
    assert line.points[0] == (pytest.approx(0.001), pytest.approx(0.01))
    assert line.points[-1] == (pytest.approx(0.1), pytest.approx(1.0))
    assert all(share == pytest.approx(seconds * 10) for seconds, share in line.points)
    assert "torch fp32, batch 1: half within 50.0 ms" in chart.description


def test_answers_within_a_time_are_percentiles_that_are_backed() -> None:
    trial = Trial(700, 90.0, {"50": 0.01, "90": 0.02, "99": 0.04, "99.9": 0.05}, True)
    run = ServingRun(Serving(slo_s=0.05), (trial,), 0)
    c = cell(runtime="onnx", batch=8, scenario="server")
    row = Measurement(c, "serving", "ok", ENVIRONMENT.id, serving=run)
    (chart,) = answer_charts(lines_of([result([row])]), LABELS)
    (line,) = chart.lines  # type: ignore[union-attr]
    assert line.points == ((0.01, 0.5), (0.02, 0.9), (0.04, 0.99))
    assert line.label == "onnx fp32, up to 8, 90.0/s"


def test_labels_of_an_axis_keep_apart() -> None:
    calls = [0.1] * 699 + [18.5]  # one took 185 times the median
    rows = merge([result([timed(cell(runtime="onnx", precision="int8-dynamic"), calls)])])
    (chart,) = [c for c in latency_charts(rows, {"env-a": "E1"}) if isinstance(c, BoxChart)]
    drawn = re.findall(
        r'<text x="([0-9.]+)" y="[0-9.]+" text-anchor="middle">([0-9.]+x)</text>', draw(chart, "c")
    )
    assert len(chart.x_ticks) > len(drawn) > 1
    for (a, left), (b, right) in itertools.pairwise((float(x), len(text)) for x, text in drawn):
        assert b - a > 7 * (left + right) / 2


def answered(queries: int = 700, slo_s: float = 0.05, **more: object) -> Measurement:
    trial = Trial(queries, 90.0, {"50": 0.01, "90": 0.02, "99": 0.04}, True)
    c = cell(**{"runtime": "onnx", "batch": 8, "scenario": "server", **more})  # type: ignore[arg-type]
    run = ServingRun(Serving(slo_s=slo_s), (trial,), 0)
    return Measurement(c, "serving", "ok", ENVIRONMENT.id, serving=run)


def test_percentiles_of_answers_are_backed_as_all_others() -> None:
    """650 answers have 6.5 beyond p99, and 662 are needed; 64 are for p90."""
    for queries, shares in ((650, [0.5, 0.9]), (662, [0.5, 0.9, 0.99]), (64, [0.5, 0.9])):
        (chart,) = answer_charts(lines_of([result([answered(queries)])]), LABELS)
        (line,) = chart.lines  # type: ignore[union-attr]
        assert [share for _, share in line.points] == shares
    assert answer_charts(lines_of([result([answered(63)])]), LABELS) == (), "p50 alone"


def test_answers_of_other_texts_and_bounds_have_charts_of_their_own() -> None:
    rows = [
        answered(side="text", tokens=8),
        answered(side="text", tokens=77),
        answered(side="text", tokens=77, slo_s=0.1),
        answered(side="text", tokens=77, threads=4),
        answered(side="text", tokens=77, device="cuda"),
    ]
    found = {
        chart.title: sorted(line.label for line in chart.lines)  # type: ignore[union-attr]
        for chart in answer_charts(lines_of([result(rows)]), LABELS)
    }
    head = "Answers within a time: M::w · text tower, "
    plain = ["onnx fp32, up to 8, 90.0/s"]
    assert found == {
        f"{head}8 tokens, server, bound 50.0 ms": plain,
        f"{head}77 tokens, server, bound 100 ms": plain,
        f"{head}77 tokens, server, bound 50.0 ms": [
            "onnx fp32, cpu, 2 threads, up to 8, 90.0/s",
            "onnx fp32, cpu, 4 threads, up to 8, 90.0/s",
            "onnx fp32, cuda, 2 threads, up to 8, 90.0/s",
        ],
    }
