"""Accuracy over throughput: the front by hand."""

from __future__ import annotations

import pytest
from report_data import cell, result, score, timed

from clipperf.report.charts import LineChart
from clipperf.report.records import merge, merge_scores
from clipperf.report.svg import draw
from clipperf.report.tradeoff import Point, front_of, tradeoff_charts

LABELS = {"env-a": "E1"}

SETUPS = {  # runtime, precision: seconds of one image, accuracy
    ("torch", "fp32"): (0.1, 0.64),
    ("onnx", "fp32"): (0.05, 0.64),
    ("onnx", "int8"): (0.02, 0.60),
    ("openvino", "int8"): (0.04, 0.59),
}


def drawn(**more: object) -> tuple:
    measured = [timed(cell("image", *s), [seconds] * 6) for s, (seconds, _) in SETUPS.items()]
    scores = [score(cell("image", *s), value) for s, (_, value) in SETUPS.items()]
    files = [result([*measured, *more.get("measured", ())], [*scores, *more.get("scores", ())])]  # type: ignore[misc]
    return tradeoff_charts(merge(files), merge_scores(files), LABELS)


def test_the_front_is_what_nothing_beats() -> None:
    (chart,) = drawn()
    assert isinstance(chart, LineChart) and chart.scales == (True, False)
    front, *lines = chart.lines
    assert front.points == (
        pytest.approx((20.0, 0.64)),
        pytest.approx((50.0, 0.60)),
    )
    named = {line.label: line.texts for line in lines}
    assert named == {
        "torch fp32": ("",),
        "onnx fp32": ("onnx fp32",),
        "onnx int8": ("onnx int8",),
        "openvino int8": ("",),
    }
    assert lines[0].whiskers == ((0.64 - 0.03, 0.64 + 0.03),)
    assert (
        "faster: onnx fp32 (20.0 images/s at batch 1, 64.0 %) and onnx int8 (50.0 images/s at "
        "batch 1, 60.0 %)." in chart.description
    )
    assert draw(chart, "c").count('class="whisker"') == 4


def test_equals_are_both_on_the_front() -> None:
    (row,) = merge([result([timed(cell(), [0.1] * 6)])])
    same = [Point(score(cell(), 0.5), row), Point(score(cell(), 0.5), row)]
    assert front_of(same) == same
    better = Point(score(cell(), 0.6), row)
    assert front_of([*same, better]) == [better]


def test_the_fastest_batch_stands_for_a_setup() -> None:
    (chart,) = drawn(measured=[timed(cell("image", "onnx", "fp32", batch=8), [0.1] * 6)])
    assert "onnx fp32 (80.0 images/s at batch 8, 64.0 %)" in chart.description


def test_what_stands_for_nothing_is_left_out() -> None:
    noise = {"model": "R::random:0"}
    (chart,) = drawn(
        measured=[timed(cell(**noise), [0.001] * 6, random_weights=True)],
        scores=[
            score(cell(**noise), 0.99, random_weights=True),
            score(cell(), 0.99, metric="top-5"),
            score(cell(), 0.99, metric="top-1", group="worst"),
        ],
    )
    assert "99.0 %" not in chart.description and "R::random" not in chart.description
    one = [result([timed(cell(), [0.1] * 6)], [score(cell())])]
    assert tradeoff_charts(merge(one), merge_scores(one), LABELS) == ()
