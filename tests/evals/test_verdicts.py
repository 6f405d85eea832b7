"""The judgement of a score beside the baseline's."""

from __future__ import annotations

import math
from typing import Any

import pytest
from report_data import cell, score

from clipperf.errors import UsageError
from clipperf.evals.outcome import MeanGap
from clipperf.evals.resampling import ResampledGap, missed_by
from clipperf.evals.verdicts import (
    COMPARED,
    Verdict,
    in_words,
    not_equivalent,
    parse_margin,
    samples_needed,
    verdict_of,
)

BESIDE: dict[str, Any] = {"baseline_value": 0.6, "difference": -0.02}


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"random_weights": True, **BESIDE, "diff_ci95": (0.0, 0.0)}, Verdict.RANDOM_WEIGHTS),
        ({}, Verdict.BASELINE),
        ({"baseline_value": 0.6}, Verdict.NOT_COMPARED),
        ({"baseline_value": math.nan, "difference": math.nan}, Verdict.NOT_COMPARED),
        (BESIDE, Verdict.TOO_FEW),
        ({**BESIDE, "diff_ci95": (math.nan, 0.0)}, Verdict.TOO_FEW),
        ({**BESIDE, "diff_ci95": (-0.01, 0.0)}, Verdict.TOO_FEW),
        ({**BESIDE, "diff_ci95": (-0.009, 0.0)}, Verdict.EQUIVALENT),
        ({**BESIDE, "diff_ci95": (-0.03, -0.01)}, Verdict.WORSE),
    ],
)
def test_verdicts(fields: dict[str, Any], verdict: Verdict) -> None:
    found = verdict_of(score(cell(), 0.58, **fields))
    assert found is verdict
    assert (found in COMPARED) == (found.value in ("equivalent", "worse", "too few samples"))


def test_what_is_no_number() -> None:
    assert verdict_of(score(cell(), math.nan, **BESIDE)) is Verdict.NOT_A_NUMBER


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({**BESIDE, "diff_ci95": (0.0, math.nan)}, Verdict.TOO_FEW),
        ({**BESIDE, "diff_ci95": (-math.inf, -0.1)}, Verdict.TOO_FEW),
        ({**BESIDE, "diff_ci95": (-0.2, 0.0)}, Verdict.TOO_FEW),
        ({**BESIDE, "diff_ci95": (-0.2, -1e-9)}, Verdict.WORSE),
        ({**BESIDE, "diff_ci95": (0.1, 0.2)}, Verdict.EQUIVALENT),
        ({"difference": -0.02, "diff_ci95": (-0.02, -0.01)}, Verdict.WORSE),
        ({"difference": math.inf, "diff_ci95": (0.0, 0.0)}, Verdict.BASELINE),
    ],
)
def test_verdicts_at_the_ends(fields: dict[str, Any], verdict: Verdict) -> None:
    assert verdict_of(score(cell(), 0.58, **fields)) is verdict


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-0.009, 0.009), Verdict.EQUIVALENT),
        ((0.001, 0.009), Verdict.EQUIVALENT),
        ((0.0, 0.01), Verdict.TOO_FEW),
        ((0.001, 0.011), Verdict.DIFFERENT),
        ((-0.03, -0.01), Verdict.DIFFERENT),
        ((-math.inf, 0.0), Verdict.TOO_FEW),
    ],
)
def test_of_some_figures_more_is_no_better(interval: tuple[float, float], verdict: Verdict) -> None:
    own = score(cell(), 0.58, **BESIDE, diff_ci95=interval, aim="same")
    assert verdict_of(own) is verdict and verdict in COMPARED
    assert (not_equivalent((own,)) == []) == (verdict is Verdict.EQUIVALENT)


def test_samples_that_settle_both_sides() -> None:
    # Two of a hundred gained: may be within a point above or not, as long as they are few.
    gap = MeanGap(0.02, 0.02, 100)
    assert samples_needed(gap, 100, 0.01, "same") == samples_needed(gap, 100, 0.01)
    assert samples_needed(MeanGap(0.06, 0, 100), 100, 0.01) is None
    assert samples_needed(MeanGap(0.03, 0, 100), 100, 0.01, "same") is not None


def test_words() -> None:
    assert [verdict.value for verdict in Verdict] == [
        "equivalent",
        "worse",
        "different",
        "too few samples",
        "baseline",
        "not compared",
        "not a number",
        "RANDOM WEIGHTS",
    ]
    assert verdict_of(score(cell(), math.inf)) is Verdict.NOT_A_NUMBER
    assert verdict_of(score(cell(), math.nan, random_weights=True)) is Verdict.RANDOM_WEIGHTS


# --- margins, and how many samples would do ------------------------------------------------


def test_the_margin_of_a_score() -> None:
    found = {**BESIDE, "diff_ci95": (-0.009, 0.0)}
    assert verdict_of(score(cell(), 0.58, **found, margin=0.005)) is Verdict.TOO_FEW
    assert verdict_of(score(cell(), 0.58, **found, margin=0.02)) is Verdict.EQUIVALENT
    worse = {**BESIDE, "diff_ci95": (-0.009, -0.001)}
    assert verdict_of(score(cell(), 0.58, **worse, margin=0.005)) is Verdict.WORSE


@pytest.mark.parametrize(
    ("text", "margin"),
    [("0.5pp", 0.005), ("0.5", 0.005), (" 1 pp ", 0.01), ("100", 1.0)],
)
def test_margins(text: str, margin: float) -> None:
    assert parse_margin(text) == pytest.approx(margin)


@pytest.mark.parametrize("text", ["", "pp", "0", "-1", "101", "nan", "0.5%", "half"])
def test_what_is_no_margin(text: str) -> None:
    with pytest.raises(UsageError, match="give percentage points above 0"):
        parse_margin(text)


def test_how_many_samples_would_do() -> None:
    # No flip: 0.99^n is below 2.5 % from 368 on, 0.995^n from 736.
    assert samples_needed(MeanGap(0, 0, 50), 50, 0.01) == 370
    assert samples_needed(MeanGap(0, 0, 50), 50, 0.005) == 740
    assert samples_needed(MeanGap(0, 0, 368), 368, 0.01) is None
    # Captions that are worth a fifth of their number take five times as many.
    assert samples_needed(MeanGap(0, 0, 50), 250, 0.01) == pytest.approx(1850, abs=50)
    # 1 % of flips each way: 1.96 sqrt(0.02 / n) is below a point from 768 on, a little above it
    # by the exact limits.
    needed = samples_needed(MeanGap(0.01, 0.01, 100), 100, 0.01)
    assert needed is not None and 768 <= needed <= 1100
    # A loss of 2 points is told from none, in the end, or from a margin of 3.
    worse = samples_needed(MeanGap(0, 0.02, 100), 100, 0.01)
    assert worse is not None and 250 <= worse <= 350
    assert samples_needed(MeanGap(0.01, 0.03, 100), 100, 0.02) > worse  # type: ignore[operator]
    assert samples_needed(ResampledGap(0.0, -0.02, 0.02, missed_by(1000)), 1000, 0.01) == 4100
    assert samples_needed(ResampledGap(math.nan, math.nan, math.nan, missed_by(9)), 9, 0.01) is None


def test_a_verdict_in_words() -> None:
    few = {**BESIDE, "diff_ci95": (-0.05, 0.01)}
    assert in_words(score(cell(), 0.58, **few)) == "too few samples"
    told = in_words(score(cell(), 0.58, **few, samples_needed=1200))
    assert told == "too few samples: about 1200 would do"
    assert in_words(score(cell(), 0.58)) == "baseline"


def test_what_is_not_equivalent() -> None:
    base, fine = score(cell(), 0.6), score(cell(), 0.58, **BESIDE, diff_ci95=(-0.009, 0.0))
    worse = score(cell(runtime="onnx"), 0.58, **BESIDE, diff_ci95=(-0.03, -0.01))
    assert not_equivalent((base, fine)) == []
    assert not_equivalent((base,)) == ["nothing was compared with the baseline"]
    (said,) = not_equivalent((base, fine, worse))
    assert "onnx" in said and said.endswith(f"{worse.dataset}, {worse.metric}: worse")
    for value, fields, why in (
        (math.nan, BESIDE, "not a number"),
        (0.58, {"baseline_value": math.nan, "difference": math.nan}, "not compared"),
    ):
        (said,) = not_equivalent((base, fine, score(cell(), value, **fields)))
        assert said.endswith(why), "nothing has been shown of it"
