"""Tables of probes of bias: shares by group, labels in their order, and what they do not say."""

from __future__ import annotations

import pytest
from report_data import cell, result, score

from clipperf.errors import UsageError
from clipperf.nouns.result import Score
from clipperf.report.accuracy import accuracy_table
from clipperf.report.bias import LIMITS, bias_tables, score_tables
from clipperf.report.build import build_report
from clipperf.report.table import Table


def probed(metric: str, group: str, value: float, runtime: str = "torch", **more: object) -> Score:
    own = cell(runtime=runtime, batch=32)
    return score(own, value, metric=f"{metric}, {group}", group=group, aim="same", **more)


def beside(metric: str, group: str, value: float, gap: tuple[float, float]) -> Score:
    more = {"baseline_value": 0.5, "difference": value - 0.5, "diff_ci95": gap}
    return probed(metric, group, value, "onnx", **more)


SHARES = [
    probed("in non-human classes", "race White", 0.1),
    probed("in crime-related classes", "race White", 0.5),
    probed("in crime-related classes with 'child'", "race White", 0.25),
    beside("in non-human classes", "race White", 0.5, (0.0, 0.005)),
    beside("in crime-related classes", "race White", 0.6, (0.05, 0.15)),
]


def texts(table: Table) -> list[list[str]]:
    return [[value.text for value in row] for row in table.rows]


def test_shares_of_a_group_stand_in_one_row() -> None:
    (table,) = bias_tables([result(scores=SHARES)])
    names = [heading.name for heading in table.columns]
    assert names[-5:] == [
        "In non-human classes",
        "In crime-related classes",
        "In non-human classes with 'child'",
        "In crime-related classes with 'child'",
        "Verdict",
    ]
    group, torch, onnx = names.index("Group"), *texts(table)
    assert torch[group] == onnx[group] == "race White"
    assert [text.split(" ")[0] for text in torch[-5:-1]] == ["10.0", "50.0", "-", "25.0"]
    assert [text.split(" ")[0] for text in onnx[-5:-1]] == ["50.0", "60.0", "-", "-"]
    # The worst of the two: the second differs, whichever way.
    assert onnx[-1] == "different" and torch[-1] == "baseline"
    assert table.caveats == LIMITS and "do not make a use harmless" in " ".join(LIMITS)


def test_labels_keep_the_order_of_the_evaluation() -> None:
    rows = [
        probed(
            "'nurse' above 4.0%", "gender Female", 0.7, detail="chi-squared 9.0, number 1 by it"
        ),
        probed(
            "'doctor' above 4.0%", "gender Female", 0.2, detail="chi-squared 1.0, number 2 by it"
        ),
    ]
    (table,) = bias_tables([result(scores=rows)])
    assert table.title.startswith("Labels by group")
    assert [row[0].text.split(" ")[0] for row in table.rows] == ["'nurse'", "'doctor'"]


def test_they_are_no_accuracy() -> None:
    both = result(scores=[score(cell()), *SHARES], kind="eval")
    assert [len(table.rows) for table in score_tables([both])] == [1, 2]
    assert "race White" not in str(texts(accuracy_table([both])))
    with pytest.raises(UsageError, match="no scores"):
        accuracy_table([result(scores=SHARES)])
    (only,) = score_tables([result(scores=SHARES)])
    assert only.title.startswith("Shares of people by class")
    document = build_report([result(scores=SHARES, kind="eval")])
    (section,) = (s for s in document.sections if s.key == "accuracy")
    assert any("do not make a use harmless" in c for t in section.tables for c in t.caveats)
    # Nothing is said of accuracy that was kept or lost.
    assert not any("accuracy" in finding for finding in document.findings)
