"""Grades of trust: each reason alone takes one from a row that has none against it."""

from __future__ import annotations

import dataclasses

import pytest
from report_data import MIB, broken, cell, memory, result, timed

from clipperf.nouns.result import GpuLoad
from clipperf.report.records import merge
from clipperf.report.tables import cost_table, summary
from clipperf.report.trust import memory_grade, ratio_grade, time_grade, trust_table

STEADY = [0.1 + 0.0001 * (i % 7) for i in range(64)]


def times(run_s=STEADY, device="cpu", **more) -> tuple[str, str]:
    values = {"provider": "CPUExecutionProvider"} | more
    (row,) = merge([result([timed(cell(device=device), run_s, **values)])])
    return time_grade(row)


def test_nothing_against_it_is_good() -> None:
    assert times() == ("good", "")


@pytest.mark.parametrize(
    ("change", "grade", "reason"),
    [
        ({"stable": False}, "doubtful", "unstable"),
        ({"run_s": [0.1] * 5}, "doubtful", "only 5 calls, no interval"),
        (
            {"gpu": GpuLoad(2.0, 40, throttle=("power cap", "heat"))},
            "doubtful",
            "GPU throttled by power cap, heat",
        ),
        ({"run_s": [0.1] * 63}, "fair", "63 calls, too few for p90"),
        ({"run_s": [0.1, 0.2] * 40}, "fair", "interval 67 % wide"),
        ({"stable": None}, "fair", "whether it was stable is not recorded"),
        ({"provider": None}, "fair", "what ran is not recorded"),
        ({"device": "cuda"}, "fair", "throttling was not looked at"),
    ],
)
def test_one_reason_is_enough(change: dict, grade: str, reason: str) -> None:
    assert times(**change) == (grade, reason)


def test_all_reasons_are_told() -> None:
    found = times([0.1] * 20, stable=False, provider=None)
    assert found == ("doubtful", "unstable; 20 calls, too few for p90; what ran is not recorded")


def test_a_gpu_that_was_watched_is_as_good() -> None:
    assert times(device="cuda", gpu=GpuLoad(2.0, 40)) == ("good", "")


def test_memory() -> None:
    (good,) = merge([result([memory(cell(), 100)])])
    assert memory_grade(good) == ("good", "") and time_grade(good) == ("none", "not timed")
    shared = dataclasses.replace(
        memory(cell(device="cuda"), 100), vram_peak_bytes=MIB, vram_source="nvml-device-delta"
    )
    (row,) = merge([result([shared])])
    assert memory_grade(row)[0] == "fair" and "other programs included" in memory_grade(row)[1]
    (failed,) = merge([result([broken(cell(), "no", kind="memory")])])
    assert memory_grade(failed) == ("doubtful", "memory pass failed, no peak")


def test_the_table_says_why() -> None:
    files = [
        result(
            [
                timed(cell(), STEADY, provider="cpu"),
                memory(cell(), 100),
                broken(cell(runtime="onnx"), "boom"),
            ]
        )
    ]
    table = trust_table(files)
    at = [table.names.index(name) for name in ("Times", "Memory", "Why not better")]
    assert [tuple(row[i] for i in at) for row in table.texts] == [
        ("good", "good", ""),
        (
            "doubtful",
            "none",
            "times: time pass failed, no calls that can be used; memory: not measured",
        ),
    ]
    severities = [row[at[0]].severity for row in table.rows]
    assert severities == ["good", "bad"]


@pytest.mark.parametrize(
    ("torch", "onnx", "grade"),
    [
        (True, True, ("good", "")),
        (False, True, ("doubtful", "PyTorch unstable")),
        (True, False, ("doubtful", "unstable")),
        (False, False, ("doubtful", "unstable; PyTorch unstable")),
        (None, True, ("good", "")),
    ],
)
def test_a_ratio_is_as_good_as_both_of_its_rows(
    torch: bool | None, onnx: bool, grade: tuple[str, str]
) -> None:
    blocks = [block for block in range(16) for _ in range(4)]
    told = {"provider": "CPUExecutionProvider", "blocks": blocks}
    pair = [
        timed(cell(runtime="torch"), STEADY, stable=torch, **told),
        timed(cell(runtime="onnx"), STEADY, stable=onnx, **told),
    ]
    files = [result(pair)]
    baseline, row = merge(files)
    assert ratio_grade(row) == grade and ratio_grade(baseline) == ("none", "")
    marked = "PyTorch unstable" in grade[1]
    for table in (cost_table(files), summary(files)):
        notes = table.names.index("Note") if "Note" in table.names else None
        said = "" if notes is None else table.texts[1][notes]
        assert ("PyTorch unstable" in said) is marked
        assert any("over an unstable row" in line for line in table.caveats) is marked


def test_what_other_programs_took_is_among_the_caveats() -> None:
    note = "other programs use 90.0 % of the cores: noisy times"
    files = [result([timed(cell(), STEADY)], notes=(note, "another", note))]
    for table in (cost_table(files), summary(files)):
        assert f"Noted while it was measured: {note} (2 times)." in table.caveats
        assert not any("another" in line for line in table.caveats)
