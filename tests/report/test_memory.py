"""Memory over the batch: the fitted line against one computed by hand."""

from __future__ import annotations

import dataclasses

import pytest
from report_data import MIB, cell, memory, result

from clipperf.nouns.memory import memory_fit
from clipperf.report.charts import LineChart
from clipperf.report.memory import memory_charts
from clipperf.report.records import merge

LABELS = {"env-a": "E1"}

# Means 2.5 and 4.5; sums of products 8 and of squares 5: slope 1.6, start 0.5; residuals
# -0.1, 0.3, -0.3, 0.1.
PEAKS = {1: 2.0, 2: 4.0, 3: 5.0, 4: 7.0}


def test_a_line_by_hand() -> None:
    points = [(batch, round(100 * peak * MIB)) for batch, peak in PEAKS.items()]
    fit = memory_fit(points, 30 * MIB)
    assert fit is not None
    assert fit.per_item_bytes == pytest.approx(160 * MIB)
    assert fit.weights_bytes == 30 * MIB and fit.base_bytes == pytest.approx(20 * MIB)
    assert fit.residual_bytes == pytest.approx(30 * MIB) and fit.batches == (1, 2, 3, 4)
    assert fit.at(10) == pytest.approx((50 + 1600) * MIB)
    assert fit.words == (
        "30.0 MiB of weights + 20.0 MiB + 160.0 MiB an input, largest residual 30.0 MiB"
    )


def test_less_than_the_weights_is_said_with_its_sign() -> None:
    fit = memory_fit([(b, (40 + b) * MIB) for b in (1, 2, 4, 8)], 50 * MIB)
    assert fit is not None and fit.words.startswith("50.0 MiB of weights - 10.0 MiB + 1.0 MiB an")


def test_an_unknown_size_on_disk_is_left_out_and_both_terms_have_their_signs() -> None:
    fit = memory_fit([(b, (40 - b) * MIB) for b in (1, 2, 4, 8)], None)
    assert fit is not None and fit.weights_bytes is None and fit.at(0) == pytest.approx(40 * MIB)
    assert fit.words.startswith("40.0 MiB - 1.0 MiB an input, largest residual")


def test_three_batches_have_no_line() -> None:
    points = [(1, 10), (2, 20), (4, 40), (4, 41)]
    assert memory_fit(points, 0) is None
    measured = [memory(cell(batch=b), 100 + b) for b in (1, 2, 4)]
    assert memory_charts(merge([result(measured)]), LABELS) == ()


def test_the_chart_has_points_and_line() -> None:
    measured = [memory(cell(batch=b), round(100 * peak)) for b, peak in PEAKS.items()]
    measured += [memory(cell(runtime="onnx", batch=b), 50) for b in (1, 2)]
    (chart,) = memory_charts(merge([result(measured)]), LABELS)
    assert isinstance(chart, LineChart) and chart.scales == (False, False)
    line, points = chart.lines
    assert line.label == "torch fp32" and not line.marked and not points.drawn
    assert points.points == tuple((float(b), 100 * p * MIB) for b, p in PEAKS.items())
    (x0, y0), (x1, y1) = line.points
    assert (x0, x1) == (1.0, 4.0)
    assert (y0, y1) == pytest.approx((210 * MIB, 690 * MIB))
    assert chart.title.startswith("Peak RAM over batch: M::w")
    assert "torch fp32: 100.0 MiB of weights - 50.0 MiB + 160.0 MiB an input" in chart.description
    assert "onnx" not in chart.description


def test_vram_has_a_chart_of_its_own() -> None:
    measured = [
        dataclasses.replace(
            memory(cell(batch=b, device="cuda"), 200), vram_peak_bytes=(500 + 10 * b) * MIB
        )
        for b in (1, 2, 4, 8)
    ]
    ram, vram = memory_charts(merge([result(measured)]), LABELS)
    assert ram.title.startswith("Peak RAM") and vram.title.startswith("Peak VRAM")
    assert "+ 10.0 MiB an input, largest residual 0 B" in vram.description
