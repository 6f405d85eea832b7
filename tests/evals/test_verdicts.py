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
