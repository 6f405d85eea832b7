"""Answers about indexes are kept apart by how both engines ran."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_data import cell, result, score

from clipperf.nouns.result import CrossScore, ResultFile
from clipperf.report.crossing import answers, crossing_findings, crossing_tables

NAMES = ("onnx int8", "onnx fp32")


def asked(
    value: float,
    when: str = "2026-01-01T00:00:00Z",
    of_index: dict[str, object] | None = None,
    **load: object,
) -> ResultFile:
    """Both ways of searching, which either engine alone does at 0.6."""
    rows = []
    for side in ("text", "image"):
        queries = cell(side, "onnx", "int8", **load)
        index = cell("image", "onnx", "fp32", **(load if of_index is None else of_index))
        own = score(queries, value, metric=f"{side}s recall@1")
        own = replace(
            own,
            baseline_runtime="onnx",
            baseline_value=0.6,
            difference=value - 0.6,
            diff_ci95=(value - 0.605, value - 0.595),
            margin=0.01,
        )
        rows += [CrossScore(own, index, NAMES, "queries"), CrossScore(own, index, NAMES, "index")]
    return result(kind="eval", created_utc=when, crossed=tuple(rows))


@pytest.mark.parametrize(
    ("load", "heading"),
    [({"batch": 8}, "Batch"), ({"threads": 8}, "Threads"), ({"device": "cuda"}, "Device")],
)
def test_another_load_is_another_answer(load: dict[str, object], heading: str) -> None:
    both = [asked(0.6), asked(0.4, **load)]
    assert [len(rows) for rows in answers(both)] == [4, 4]
    said = crossing_findings(both)
    assert len(said) == 2
    assert said[0].startswith("M::w on cifar10 (cpu, batch 1, 2 threads): yes: ")
    assert ": no: " in said[1] and said[1].startswith("M::w on cifar10 (")
    (table,) = crossing_tables(both)
    assert heading in {column.name for column in table.columns} and len(table.rows) == 4
    alone = [asked(0.4), asked(0.6, when="2026-01-02T00:00:00Z")]
    (said,) = crossing_findings(alone)  # the newer one
    assert said.startswith("M::w on cifar10: yes: ")
    (table,) = crossing_tables(alone)
    assert not {"Batch", "Threads", "Device"} & {column.name for column in table.columns}


@pytest.mark.parametrize(
    ("load", "heading"),
    [({"batch": 8}, "batch"), ({"threads": 8}, "threads"), ({"device": "cuda"}, "device")],
)
def test_another_load_of_the_index_is_told(load: dict[str, object], heading: str) -> None:
    """Queries ran alike in both."""
    both = [asked(0.6), asked(0.4, of_index=load)]
    said = crossing_findings(both)
    assert said[0].startswith("M::w on cifar10 (cpu, batch 1, 2 threads): yes: ")
    there = {"device": "cpu", "batch": 1, "threads": 2} | load
    assert said[1].startswith(
        "M::w on cifar10 (queries cpu, batch 1, 2 threads; index "
        f"{there['device']}, batch {there['batch']}, {there['threads']} threads): no: "
    )
    (table,) = crossing_tables(both)
    names = [column.name for column in table.columns]
    assert [name for name in names if name.startswith("Index ")] == [f"Index {heading}"]
    place = names.index(f"Index {heading}")
    assert [row[place].text for row in table.rows][-1] == str(load[heading])
