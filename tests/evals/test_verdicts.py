"""The judgement of a score beside the baseline's."""

from __future__ import annotations

import math
from typing import Any

import pytest
from report_data import cell, score

from clipperf.evals.verdicts import COMPARED, Verdict, verdict_of

BESIDE: dict[str, Any] = {"baseline_value": 0.6, "difference": -0.02}


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"random_weights": True, **BESIDE, "diff_ci95": (0.0, 0.0)}, Verdict.RANDOM_WEIGHTS),
        ({}, Verdict.BASELINE),
        ({"baseline_value": 0.6}, Verdict.NOT_COMPARED),
        ({"baseline_value": math.nan, "difference": math.nan}, Verdict.NOT_COMPARED),
        (BESIDE, Verdict.UNRESOLVED),
        ({**BESIDE, "diff_ci95": (math.nan, 0.0)}, Verdict.UNRESOLVED),
        ({**BESIDE, "diff_ci95": (-0.01, 0.0)}, Verdict.UNRESOLVED),
        ({**BESIDE, "diff_ci95": (-0.009, 0.0)}, Verdict.KEPT),
        ({**BESIDE, "diff_ci95": (-0.03, -0.01)}, Verdict.LOST),
    ],
)
def test_verdicts(fields: dict[str, Any], verdict: Verdict) -> None:
    found = verdict_of(score(cell(), 0.58, **fields))
    assert found is verdict
    assert (found in COMPARED) == (found.value in ("kept", "lost", "unresolved"))


def test_what_is_no_number() -> None:
    assert verdict_of(score(cell(), math.nan, **BESIDE)) is Verdict.NOT_A_NUMBER


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({**BESIDE, "diff_ci95": (0.0, math.nan)}, Verdict.UNRESOLVED),
        ({**BESIDE, "diff_ci95": (-math.inf, -0.1)}, Verdict.UNRESOLVED),
        ({**BESIDE, "diff_ci95": (-0.2, 0.0)}, Verdict.UNRESOLVED),
        ({**BESIDE, "diff_ci95": (-0.2, -1e-9)}, Verdict.LOST),
        ({**BESIDE, "diff_ci95": (0.1, 0.2)}, Verdict.KEPT),
        ({"difference": -0.02, "diff_ci95": (-0.02, -0.01)}, Verdict.LOST),
        ({"difference": math.inf, "diff_ci95": (0.0, 0.0)}, Verdict.BASELINE),
    ],
)
def test_verdicts_at_the_ends(fields: dict[str, Any], verdict: Verdict) -> None:
    assert verdict_of(score(cell(), 0.58, **fields)) is verdict


def test_words() -> None:
    assert [verdict.value for verdict in Verdict] == [
        "kept",
        "lost",
        "unresolved",
        "baseline",
        "not compared",
        "not a number",
        "RANDOM WEIGHTS",
    ]
    assert verdict_of(score(cell(), math.inf)) is Verdict.NOT_A_NUMBER
    assert verdict_of(score(cell(), math.nan, random_weights=True)) is Verdict.RANDOM_WEIGHTS
