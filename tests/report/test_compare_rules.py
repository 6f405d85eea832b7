"""The language of rules, and when one fails."""

from __future__ import annotations

import math

import pytest
from report_data import broken, cell, memory, result, score, timed

from clipperf.errors import UsageError
from clipperf.report.compare.comparison import compare
from clipperf.report.compare.rules import NAMES, Rule, parse_rule

LATER = {"path": "b.json", "created_utc": "2026-01-02T00:00:00Z"}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("throughput<0.95", Rule("throughput<0.95", "throughput", True, 0.95)),
        (" P99 > 1.1x ", Rule("P99>1.1x", "p99", False, 1.1)),
        ("disk>1", Rule("disk>1", "disk", False, 1.0)),
        ("load>.5", Rule("load>.5", "load", False, 0.5)),
        ("accuracy<-0.5pp", Rule("accuracy<-0.5pp", "accuracy", True, -0.005)),
        ("accuracy > 1 pp", Rule("accuracy>1pp", "accuracy", False, 0.01)),
    ],
)
def test_rules(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "METRIC<BOUND"),
        ("throughput", "METRIC<BOUND"),
        ("throughput=0.9", "METRIC<BOUND"),
        ("throughput<", "METRIC<BOUND"),
        ("throughput<0.9<1", "METRIC<BOUND"),
        ("throughput<nan", "METRIC<BOUND"),
        ("throughput<1e3", "METRIC<BOUND"),
        ("speed<0.9", "choose from: throughput, speedup, p50"),
        ("throughput<0", "a ratio of B over A above 0"),
        ("ram>-1.5", "a ratio of B over A above 0"),
        ("ram>110%", "a ratio of B over A above 0"),
        ("ram>1pp", "a ratio of B over A above 0"),
        ("accuracy<0.99", "percentage points"),
        ("accuracy<-200pp", "percentage points"),
        ("p99>" + "9" * 400, "a ratio of B over A above 0"),
    ],
)
def test_what_is_no_rule_says_what_one_is(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--fail-if") as caught:
        parse_rule(text)
    assert said in str(caught.value)


def test_unknown_metrics_name_all_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        parse_rule("fps<1")
    assert ", ".join(NAMES) in str(caught.value)


def test_the_whole_interval_must_be_beyond_the_bound() -> None:
    rule = parse_rule("throughput<0.95")
    assert rule.outcome(0.90, (0.85, 0.94), False) == "failed"
    assert rule.outcome(0.90, (0.85, 0.95), False) == "unresolved"
    assert rule.outcome(0.90, (0.85, 0.95), True) == "failed"
    assert rule.outcome(0.96, (0.80, 1.10), False) == "ok"
    assert rule.outcome(0.90, None, False) == "failed"
    assert rule.outcome(0.95, None, True) == "ok"
    upper = parse_rule("p99>1.1")
    assert upper.outcome(1.2, (1.11, 1.3), False) == "failed"
    assert upper.outcome(1.2, (1.05, 1.3), False) == "unresolved"


def judged(a, b, text: str, by_point: bool = False):
    (found,) = compare([a], [b], [parse_rule(text)], by_point=by_point).judged
    return found


def test_a_slower_row_fails_and_is_named() -> None:
    both = cell("text"), cell("image")
    a = result([timed(c, [0.1] * 6) for c in both])
    b = result([timed(both[0], [0.1] * 6), timed(both[1], [0.2] * 6)], **LATER)
    found = judged(a, b, "throughput<0.95")
    assert found.failed
    assert found.words == (
        "FAILED in 1 of 2 rows: M::w image torch fp32 cpu batch 1, 2 threads 0.50x [0.50, 0.50]"
    )
    assert not judged(a, b, "throughput<0.5").failed, "at the bound is not beyond it"
    assert judged(a, b, "throughput<0.5").words == "ok in 2 rows"
    assert judged(a, b, "p50>1.5").failed


def test_a_point_alone_does_not_fail_and_is_said() -> None:
    calls = [0.1, 0.13, 0.1, 0.14, 0.09, 0.13]
    a, b = result([timed(cell(), [0.1] * 6)]), result([timed(cell(), calls)], **LATER)
    found = judged(a, b, "throughput<0.95")  # the median call takes 0.115 s: 0.87
    assert not found.failed
    assert found.words.startswith("not shown in 1 of 1 row, whose value is beyond the bound")
    assert "--by-point" in found.words and "0.87x [" in found.words
    assert judged(a, b, "throughput<0.95", by_point=True).failed


def test_what_b_no_longer_manages_is_a_regression() -> None:
    a = result([timed(cell(), [0.1] * 6), memory(cell(), 50)])
    b = result([broken(cell(), "out of memory"), memory(cell(), 50)], **LATER)
    found = judged(a, b, "throughput<0.95")
    assert found.failed
    assert found.words == (
        "FAILED, measured in A and no longer in B: M::w image torch fp32 cpu batch 1, 2 threads"
    )
    assert not judged(a, b, "ram>1.1").failed


def test_a_rule_that_has_nothing_to_look_at_fails() -> None:
    a, b = result([timed(cell(), [0.1] * 6)]), result([timed(cell(), [0.1] * 6)], **LATER)
    for text in ("vram>1.1", "accuracy<-1pp", "p99>1.1"):
        found = judged(a, b, text)
        assert found.failed and found.words == "FAILED: no row has this figure in both A and B"


def scores(*values: float, **more):
    return result(
        scores=[score(cell(runtime="onnx", precision=f"int{i}"), v) for i, v in enumerate(values)],
        **more,
    )


def test_accuracy_in_points() -> None:
    # Each interval reaches 3 points, their difference 4.24.
    a, b = scores(0.60, 0.60, 0.60), scores(0.54, 0.57, 0.60, **LATER)
    found = judged(a, b, "accuracy<-0.5pp")
    assert [row.outcome for row in found.rows] == ["failed", "unresolved", "ok"]
    assert "-6.0 [-10.2, -1.8] points" in found.words
    assert not judged(a, b, "accuracy<-8pp").failed


def test_accuracy_that_b_lacks_on_the_same_data_is_a_regression() -> None:
    a, b = scores(0.6, 0.6), scores(0.6, **LATER)
    found = judged(a, b, "accuracy<-1pp")
    assert found.failed and "measured in A and no longer in B: M::w onnx int1" in found.words
    assert not judged(b, a, "accuracy<-1pp").failed, "what B alone has is no loss"


def test_accuracy_that_is_no_number_or_of_noise() -> None:
    assert judged(scores(0.6), scores(math.nan, **LATER), "accuracy<-1pp").failed
    noise = result(scores=[score(cell(), 0.1, random_weights=True)])
    lower = result(scores=[score(cell(), 0.0, random_weights=True)], **LATER)
    assert judged(noise, lower, "accuracy<-1pp").words.startswith("FAILED: no row has this figure")


def test_many_rows_are_counted() -> None:
    rows = [cell(batch=batch) for batch in range(1, 14)]
    a = result([timed(c, [0.1] * 6) for c in rows])
    b = result([timed(c, [0.2] * 6) for c in rows], **LATER)
    found = judged(a, b, "throughput<0.95")
    assert found.words.startswith("FAILED in 13 of 13 rows: ")
    assert found.words.endswith(" and 3 more")
