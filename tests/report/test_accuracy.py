"""The accuracy table: rows that can be told apart, one margin, and what is at chance."""

from __future__ import annotations

import numpy as np
from report_data import cell, result, score

from clipperf.evals.metric import Ranked
from clipperf.evals.metrics import worst_group
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Score
from clipperf.report.accuracy import MOST_AT_CHANCE, accuracy_table
from clipperf.report.bias import bias_tables
from clipperf.report.table import Table


def column(table: Table, name: str) -> list[str] | None:
    """The texts of a column; None where it is not shown."""
    places = [i for i, heading in enumerate(table.columns) if heading.name == name]
    return [row[places[0]].text for row in table.rows] if places else None


def compared(c: Cell, **more: object) -> Score:
    """A score half a point below its baseline."""
    gap = {"baseline_value": 0.6, "difference": -0.005, "diff_ci95": (-0.008, 0.0)}
    return score(c, 0.595, baseline_runtime="torch", **{**gap, **more})


def said(table: Table, start: str) -> list[str]:
    """The caveats that begin so."""
    return [text for text in table.caveats if text.startswith(start)]


def test_rows_that_differ_in_their_load_alone_say_so() -> None:
    rows = [score(cell(batch=b, threads=t), 0.6) for b, t in ((8, 1), (32, 1), (32, 2))]
    table = accuracy_table([result(scores=rows)])
    assert (column(table, "Batch"), column(table, "Threads")) == (
        ["8", "32", "32"],
        ["1", "1", "2"],
    )
    assert len({tuple(value.text for value in row) for row in table.rows}) == 3
    same = accuracy_table([result(scores=rows[:1])])
    assert column(same, "Batch") is column(same, "Threads") is None
    # So do shares of people, whose tables said nothing of devices, either.
    rows = [
        score(cell(batch=b, device=d), 0.1, metric=f"{m}, race x", group="race x", aim="same")
        for b, d in ((8, "cpu"), (32, "cpu"), (32, "cuda"))
        for m in ("in non-human classes", "'a nurse' above 4.0%")
    ]
    for table in bias_tables([result(scores=rows)]):
        assert column(table, "Batch") == ["8", "32", "32"]
        assert column(table, "Device") == ["cpu", "cpu", "cuda"]


def test_the_margin_is_the_one_that_was_asked_for() -> None:
    """The baseline's own row was held to none."""
    rows = [score(cell(), 0.6), compared(cell(runtime="onnx"), margin=0.02)]
    (legend,) = said(accuracy_table([result(scores=rows)]), "Brackets are")
    assert "lies above -2 points; worse" in legend
    (legend,) = said(accuracy_table([result(scores=rows[:1])]), "Brackets are")
    assert "lies above -1 point; worse" in legend
    both = [*rows, compared(cell(runtime="openvino"), margin=0.005)]
    (legend,) = said(accuracy_table([result(scores=both)]), "Brackets are")
    assert "lies above -0.5 and 2 points; worse" in legend


def test_what_is_not_shown_to_be_above_chance_is_named_row_by_row() -> None:
    parts = np.array([0, 1])
    ranked = Ranked("zeroshot", "classification", "image", parts, 20, parts, parts=parts)
    worst = worst_group.outcomes(ranked)
    assert [each.metric for each in worst] == [
        "zeroshot top-1, worst group",
        "zeroshot top-5, worst group",
    ]
    rows = [
        score(cell(), 0.12, metric="zeroshot top-1"),  # 0.09 to 0.15, and chance is 0.1
        score(cell(runtime="onnx", precision="int8"), 0.5, metric="zeroshot top-1"),
        score(cell(), 0.5, metric="zeroshot top-5"),
        score(cell(), 0.11, metric="zeroshot mean(top-1, top-5)"),
        score(cell(), 0.05, metric="zeroshot top-1, race x", group="race x"),
        *(score(cell(), 0.05, metric=each.metric, group=each.group) for each in worst),
        score(cell(model="R::random:0"), 0.1, random_weights=True),
    ]
    (caveat,) = said(accuracy_table([result(scores=rows)]), "Not")
    assert caveat == (
        "Not shown to be above chance: M::w torch fp32 on cifar10, zeroshot top-1; "
        "M::w torch fp32 on cifar10, zeroshot mean(top-1, top-5)."
    )
    many = [score(cell(), 0.1, dataset=f"d{i:02d}") for i in range(MOST_AT_CHANCE + 3)]
    (caveat,) = said(accuracy_table([result(scores=many)]), "Not")
    assert caveat.endswith("on d09, top-1; and 3 more.") and "d10" not in caveat
