"""Ratios of rows and differences of accuracy, computed by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
from report_data import MIB, cell, memory, result, score, timed

from clipperf import stats
from clipperf.nouns.result import ResultFile
from clipperf.report.compare.figures import METRICS, Change, change, hits_of, shift
from clipperf.report.compare.match import Pair, Setup, matched_rows

BY_NAME = {metric.name: metric for metric in METRICS}
TORCH, ONNX = Setup("torch", "fp32", "float32"), Setup("onnx", "fp32", "float32")
LATER = {"path": "b.json", "created_utc": "2026-01-02T00:00:00Z"}


def only(a: ResultFile, b: ResultFile, between=None) -> Pair:
    (pair,) = matched_rows([a], [b], between).pairs
    return pair


def changes(pair: Pair) -> dict[str, Change]:
    return {name: change(metric, pair) for name, metric in BY_NAME.items()}


def test_two_runs_are_not_paired_though_their_groups_have_one_name() -> None:
    a = result([timed(cell(batch=8), [0.2] * 6), memory(cell(batch=8), 100)])
    b = result([timed(cell(batch=8), [0.16] * 6, load_s=1.0), memory(cell(batch=8), 150)], **LATER)
    found = changes(only(a, b))
    speed = found["throughput"]
    assert (speed.a, speed.b, speed.how) == (40.0, 50.0, "unpaired")
    assert (speed.ratio, speed.interval) == (1.25, pytest.approx((1.25, 1.25)))
    assert found["p50"].ratio == pytest.approx(0.8)
    assert found["p50"].interval == pytest.approx((0.8, 0.8))
    assert found["ram"] == Change(100 * MIB, 150 * MIB, 1.5)
    assert found["load"] == Change(0.5, 1.0, 2.0)
    assert found["disk"].ratio == 1.0
    assert found["vram"] == Change(None, None)
    assert found["p90"] == Change(None, None), "six calls do not back it"


def test_rows_that_took_turns_are_paired_by_block() -> None:
    """The machine slows down threefold meanwhile, and every block of onnx is twice as fast."""
    slow = [0.1 * (1 + i) for i in range(6)]
    runs = result([timed(cell(), slow), timed(cell(runtime="onnx"), [x / 2 for x in slow])])
    found = changes(only(runs, runs, (TORCH, ONNX)))
    assert found["throughput"].how == found["p50"].how == "paired"
    assert found["throughput"].ratio == pytest.approx(2.0)
    assert found["throughput"].interval == pytest.approx((2.0, 2.0))
    assert found["p50"].interval == pytest.approx((0.5, 0.5))


def test_in_one_file_other_groups_are_not_paired() -> None:
    runs = result([timed(cell(), [0.2] * 6), timed(cell(runtime="onnx"), [0.1] * 6, group="h")])
    assert changes(only(runs, runs, (TORCH, ONNX)))["throughput"].how == "unpaired"


def test_tails_of_latency() -> None:
    """Of 700 calls 50 take three times as long: p99 is among them, p90 is not."""
    blocks = [i // 100 for i in range(700)]
    spiky = [0.3 if i % 14 == 0 else 0.1 for i in range(700)]
    a = result([timed(cell(), [0.1] * 700, blocks)])
    b = result([timed(cell(), spiky, blocks)], **LATER)
    found = changes(only(a, b))
    assert found["p50"].ratio == found["p90"].ratio == 1.0
    assert found["p99"].ratio == pytest.approx(3.0)
    assert found["p99"].interval == pytest.approx((3.0, 3.0))


def test_speedups_are_compared_as_ratios_over_pytorch() -> None:
    """The second machine is half as fast, and PyTorch with it: 2.0x became 3.0x."""
    onnx = cell(runtime="onnx")
    a = result([timed(cell(), [0.2] * 6), timed(onnx, [0.1] * 6)])
    b = result([timed(cell(), [0.6] * 6), timed(onnx, [0.2] * 6)], **LATER)
    pair = matched_rows([a], [b]).pairs[1]
    assert pair.cell == onnx
    found = changes(pair)
    assert found["throughput"].ratio == pytest.approx(0.5)
    assert found["speedup"].ratio == pytest.approx(1.5)
    assert found["speedup"].interval == pytest.approx((1.5, 1.5))
    # With intervals: ln(4/2) = 0.6931 and ln(4/3) = 0.2877 below, each alone and both together.
    row = dataclasses.replace(pair.a, ratio=4.0, ratio_interval=(3.0, 8.0))
    wide = changes(Pair(row, row))["speedup"]
    ends = math.exp(-math.hypot(math.log(4 / 3), math.log(2)))
    assert wide.interval == pytest.approx((ends, 1 / ends))
    lone = dataclasses.replace(pair.a, ratio_baseline=cell(precision="fp16"))
    assert changes(Pair(lone, pair.b))["speedup"].ratio is None, "over another PyTorch"


def test_speedups_over_the_same_calls_of_pytorch_are_paired() -> None:
    """The machine slows down meanwhile: each speed-up varies, int8 is always twice fp32's."""
    slow = [0.1 * (1 + i) for i in range(6)]
    torch = [0.2, 0.3, 0.6, 0.7, 0.9, 1.2]
    fp32, int8 = cell(runtime="onnx"), cell(runtime="onnx", precision="int8")
    runs = result(
        [timed(cell(), torch), timed(fp32, slow), timed(int8, [x / 2 for x in slow])],
    )
    between = (ONNX, Setup("onnx", "int8", "float32"))
    found = changes(only(runs, runs, between))["speedup"]
    assert found.how == "paired"
    assert (found.ratio, found.interval) == (pytest.approx(2.0), pytest.approx((2.0, 2.0)))
    apart = result(
        [
            *(timed(cell(), torch, group=g) for g in "gh"),
            timed(fp32, slow),
            timed(int8, [x / 2 for x in slow], group="h"),
        ],
    )
    assert changes(only(apart, apart, between))["speedup"].how == "unpaired"


def test_vram_of_two_meters_has_no_ratio() -> None:
    def held(source: str, **more) -> ResultFile:
        row = memory(cell(), 100, vram_peak_bytes=200 * MIB, vram_source=source)
        return result([row], **more)

    one, other = held("nvml-process"), held("allocator", **LATER)
    assert changes(only(one, dataclasses.replace(one, **LATER)))["vram"].ratio == 1.0
    assert changes(only(one, other))["vram"] == Change(200 * MIB, 200 * MIB)


# --- accuracy ------------------------------------------------------------------------------


def kept(difference: float, reach: float, **more):
    ends = (difference - reach, difference + reach)
    values = {"baseline_runtime": "torch", "baseline_value": 0.6} | more
    return score(
        cell(runtime="onnx"), 0.6 + difference, difference=difference, diff_ci95=ends, **values
    )


def test_hits_are_paired_sample_by_sample() -> None:
    # 8 samples: 1111 0000 and 1110 0001. One gained, one lost.
    a, b = (score(cell(), 0.5, n=8, hits=hits) for hits in ("f0", "e1"))
    found = shift(Pair(a, b))
    assert found.basis == "paired" and found.difference == 0.0
    assert found.interval == stats.paired_share_interval(1, 1, 8)
    # Where none of 50 differs it is the limit of Clopper and Pearson, 1 - 0.025 ** (1 / 50).
    one = score(cell(), 0.5, n=50, hits="aa" * 7)
    assert shift(Pair(one, one)).interval == pytest.approx((-0.0711, 0.0711), abs=1e-4)


@pytest.mark.parametrize("hits", ["", "f", "f0f0", "zz"])
def test_hits_that_are_none_are_not_believed(hits: str) -> None:
    assert hits_of(score(cell(), 0.5, n=8, hits=hits)) is None
    assert hits_of(score(cell(), 0.5, n=8, hits="f0")) == 0xF0


def test_through_pytorch_on_the_same_samples() -> None:
    found = shift(Pair(kept(0.0, 0.004), kept(-0.03, 0.003)))
    assert found.basis == "via PyTorch"
    assert found.difference == pytest.approx(-0.03)
    assert found.interval == pytest.approx((-0.035, -0.025))  # 0.005 = hypot(0.003, 0.004)
    pytorch = score(cell(), 0.6)
    alone = shift(Pair(pytorch, kept(-0.03, 0.003)))
    assert alone.basis == "via PyTorch" and alone.interval == pytest.approx((-0.033, -0.027))


def test_another_pytorch_is_no_bridge() -> None:
    for other in (
        kept(0.0, 0.004, baseline_value=0.601),
        kept(0.0, 0.004, n=999),
        score(cell(runtime="onnx"), 0.6),
        kept(0.0, math.nan),
    ):
        assert shift(Pair(other, kept(-0.03, 0.003))).basis == "unpaired"
    assert shift(Pair(score(cell(), 0.6), score(cell(), 0.6))).basis == "unpaired"


def test_two_independent_shares() -> None:
    """The example of Newcombe 1998: 56 of 70 against 48 of 80, method 10."""
    a = score(cell(), 48 / 80, n=80, ci95=stats.wilson_interval(48, 80))
    b = score(cell(), 56 / 70, n=70, ci95=stats.wilson_interval(56, 70))
    found = shift(Pair(a, b))
    assert found.difference == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert shift(Pair(a, score(cell(), math.nan))).difference is None
    assert shift(Pair(a, score(cell(), 0.5, ci95=(math.nan, math.nan)))).interval is None
