"""Effective robustness in a report of result files."""

from __future__ import annotations

from report_data import cell, result, score

from clipperf.report.build import build_report


def test_a_report_has_it_where_both_scores_are_there() -> None:
    top = {"metric": "zeroshot top-1"}
    both = [
        score(cell(), 0.63, dataset="imagenet1k", **top),
        score(cell(), 0.20, dataset="imagenet-a", **top),
        score(cell(runtime="onnx"), 0.30, dataset="imagenet-a", **top),
    ]
    document = build_report([result(scores=both, kind="eval")])
    (section,) = (s for s in document.sections if s.key == "shift")
    (table,) = section.tables
    assert len(table.rows) == 1 and "imagenet-a" in [value.text for value in table.rows[0]]
    assert "open_clip's table of 38 datasets" in table.caveats[0]
    alone = build_report([result(scores=both[1:], kind="eval")])
    assert not any(s.key == "shift" for s in alone.sections)
