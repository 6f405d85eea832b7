"""The largest batch within a limit: lines and margins by hand, and what a run of it took."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from report_data import ENVIRONMENT, MIB, cell, memory, result, timed

from clipperf.nouns.memory import Foreseen, memory_fit, plane_fit
from clipperf.nouns.result import Measurement
from clipperf.report.build import build_report
from clipperf.report.largest import (
    largest_of,
    largest_record,
    largest_table,
    unmeasured,
    why_not,
    without_line,
)
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.tables import sizing_tables
from clipperf.report.sizing.types import Targets

# By hand: slope 1.6, start 0.5, residuals -0.1, 0.3, -0.3, 0.1, in 100 MiB.
PEAKS = {1: 200, 2: 400, 3: 500, 4: 700}


def measured(peaks: dict[int, int] = PEAKS, **more: object) -> list[Measurement]:
    return [memory(cell(batch=b, **more), peak) for b, peak in peaks.items()]  # type: ignore[arg-type]


def checked(batch: int, limit: int, peak: int | None, **more: object) -> Measurement:
    values = {"status": "ok" if peak else "failed", **more}
    return Measurement(
        cell(batch=batch),
        "check",
        env_id=ENVIRONMENT.id,
        rss_peak_bytes=peak * MIB if peak else None,
        foreseen=Foreseen("RAM", limit * MIB, (50 + 160 * batch) * MIB, 30 * MIB, (1, 2, 3, 4)),
        **values,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("limit_mib", "batch"),
    # 50 + 160 b and a margin: t of 2 degrees 4.3027 x the standard error sqrt(2000 / 2) = 31.62
    # x sqrt(1 + 1/4 + (b - 2.5)^2 / 5), so 177.4 at 1 and 4, 155.1 at 3, 423.8 at 9, 481.1 at 10.
    [(2132, 10), (2131, 9), (868, 4), (867, 3), (686, 3), (388, 1), (387, 0), (10, 0)],
)
def test_the_largest_batch_keeps_a_margin_that_grows(limit_mib: int, batch: int) -> None:
    fit = memory_fit([(b, peak * MIB) for b, peak in PEAKS.items()], 30 * MIB)
    assert fit is not None and fit.largest(limit_mib * MIB) == batch
    found = [fit.margin(each) / MIB for each in (1, 3, 4, 10)]
    assert found == pytest.approx([177.4, 155.1, 177.4, 481.1], abs=0.05)


def test_the_margin_of_texts_of_several_lengths() -> None:
    """Each peak 1 MiB off its plane, up and down in turns: by numpy's algebra."""
    at = [(b, t) for t in (8, 77) for b in (1, 2, 4, 8)]
    peaks = [(100 + b + b * t / 2 + (-1) ** n) * MIB for n, (b, t) in enumerate(at)]
    fit = plane_fit([(b, t, round(peak)) for (b, t), peak in zip(at, peaks, strict=True)], 0)
    x = np.array([(1, b, b * t) for b, t in at], dtype=float)
    solved, (left,), _, _ = np.linalg.lstsq(x, np.array(peaks), rcond=None)
    for batch, tokens in ((10, 8), (10, 77)):
        row = np.array((1, batch, batch * tokens))
        wide = 1 + row @ np.linalg.inv(x.T @ x) @ row
        # Student's t of 8 - 3 degrees of freedom at 97.5 %: 2.5706
        wanted = 2.5706 * np.sqrt(left / 5 * wide)
        assert fit is not None and fit.margin(batch, tokens) == pytest.approx(wanted, rel=1e-4)
        assert fit.at(batch, tokens) == pytest.approx(row @ solved)


def test_what_was_measured_within_a_limit_counts_whatever_the_line_says() -> None:
    """The margin of 177 MiB reaches beyond a limit that batches 1 and 2 were measured within."""
    (row,) = largest_of([result(measured())], ram_bytes=400 * MIB)
    assert row.batch == 2 and why_not(row) == ""
    flat = {1: 100, 2: 103, 3: 99, 4: 101}
    wanted = {98: 0, 99: 3, 100: 3, 102: 4, 103: None}
    found = {
        limit: largest_of([result(measured(flat))], ram_bytes=limit * MIB)[0].batch
        for limit in wanted
    }
    assert found == wanted


def test_a_batch_of_a_length_that_is_left_out_moves_no_end() -> None:
    rows = [*measured(side="text", tokens=77), *measured({32: 9000}, side="text", tokens=8)]
    (row,) = largest_of([result(rows)], ram_bytes=10**15)
    assert (row.batch, row.batches) == (32, (1, 2, 3, 4, 32))
    assert why_not(row) == "the limit is further: no more than 8 x batch 4 is foreseen"


def test_no_batch_is_foreseen_far_beyond_the_measured_ones() -> None:
    fit = memory_fit([(b, peak * MIB) for b, peak in PEAKS.items()], 30 * MIB)
    assert fit is not None and fit.largest(10**15) == 8 * 4
    (row,) = largest_of([result(measured())], ram_bytes=10**15)
    assert (row.batch, why_not(row)) == (
        32,
        "the limit is further: no more than 8 x batch 4 is foreseen",
    )


def test_what_grows_less_than_the_residual_says_nothing() -> None:
    flat = memory_fit([(1, 100), (2, 103), (3, 99), (4, 101)], 0)
    assert flat is not None and not flat.grows() and flat.largest(10**9) is None


def test_texts_of_several_lengths_have_a_plane() -> None:
    """100 MiB, 1 MiB a text and 0.5 MiB a token of it; 16 tokens have too few batches."""
    points = [(b, t, round((100 + b + b * t / 2) * MIB)) for t in (8, 77) for b in (1, 2, 4, 8)]
    fit = plane_fit([*points, (1, 16, 900 * MIB)], 60 * MIB)
    assert fit is not None and (fit.lengths, fit.batches) == ((8, 77), (1, 2, 4, 8))
    assert fit.base_bytes == pytest.approx(40 * MIB)
    assert fit.per_item_bytes == pytest.approx(MIB)
    assert fit.per_token_bytes == pytest.approx(MIB / 2)
    assert fit.residual_bytes == pytest.approx(0, abs=1)
    assert fit.at(10, 8) == pytest.approx(150 * MIB)
    # 100 + 39.5 b within 495: ten texts of 77 tokens; 100 + 5 b within 295: 39 of 8 tokens.
    assert (fit.largest(495 * MIB, 77), fit.largest(295 * MIB, 8)) == (10, 39)
    assert fit.words == (
        "60.0 MiB of weights + 40.0 MiB + 1.0 MiB an input + 512.0 KiB a token of it, largest "
        "residual 0 B"
    )


def test_a_limit_that_is_asked_for() -> None:
    (found,) = largest_of([result(measured())], ram_bytes=2132 * MIB)
    assert (found.batch, found.peak_bytes) == (10, pytest.approx(1650 * MIB))
    assert (found.measured_bytes, found.off, found.batches) == (None, None, (1, 2, 3, 4))
    table = largest_table([found], {"env-a": "E1"})
    assert table is not None
    row = dict(zip((c.name for c in table.columns), table.texts[0], strict=True))
    assert row["Largest batch"] == "10" and row["Predicted"] == "1.61 GiB"
    assert row["Margin"] == "481.1 MiB"
    assert largest_record(found)["margin_bytes"] == pytest.approx(481.06 * MIB, rel=1e-4)
    assert row["An input"] == "160.0 MiB" and row["Largest residual"] == "30.0 MiB"
    assert "Note" not in row and "Measured" not in row


def test_the_check_stands_beside_the_prediction_and_is_no_point_of_the_line() -> None:
    # Predicted 1650 MiB, measured 1683: 2 % more. It is no row of costs either.
    file = result([*measured(), checked(10, 2132, 1683)])
    (found,) = largest_of([file])
    assert (found.batch, found.measured_bytes) == (10, 1683 * MIB)
    assert found.off == pytest.approx(0.02) and found.fit is not None
    assert found.fit.batches == (1, 2, 3, 4)
    table = largest_table([found], {"env-a": "E1"})
    assert table is not None and "+2.0 %" in table.texts[0]
    (again,) = largest_of([file], ram_bytes=2132 * MIB)
    assert again == found, "a limit that was checked has one row"
    assert len(largest_of([file], ram_bytes=4000 * MIB)) == 2
    document = build_report([file])
    (section,) = [s for s in document.sections if s.key == "memory"]
    assert [t.title.split(" · ")[0] for t in section.tables] == ["Memory over batch"]
    (record,) = [r for r in document.records if r["record"] == "memory"]
    assert (record["largest_batch"], record["measured_bytes"]) == (10, 1683 * MIB)
    assert sum(r["record"] == "cost" for r in document.records) == 4


def test_what_did_not_end_well_is_no_point_of_the_line() -> None:
    """Its peak is of as far as it came: with 160 MiB at batch 16 the line would not grow."""
    ended = dataclasses.replace(memory(cell(batch=16), 160), status="failed", error="killed")
    (found,) = largest_of([result([*measured(), ended])], ram_bytes=2132 * MIB)
    assert (found.batch, found.batches) == (10, (1, 2, 3, 4))
    few = [row for row in measured() if row.cell.batch != 4]
    (found,) = largest_of([result([*few, ended])], ram_bytes=2132 * MIB)
    assert (found.fit, found.batch, found.batches) == (None, None, (1, 2, 3))


def test_texts_are_those_of_the_fit() -> None:
    """100 MiB and 10 MiB a text of 8 tokens; of 77 tokens one batch failed, so they have none."""
    short = [memory(cell(side="text", batch=b, tokens=8), 100 + 10 * b) for b in (1, 2, 4, 8)]
    long = [memory(cell(side="text", batch=b, tokens=77), 100 + 40 * b) for b in (1, 2, 4)]
    (found,) = largest_of([result([*short, *long])], ram_bytes=400 * MIB)
    assert (found.cell.tokens, found.batch) == (8, 30)
    assert found.peak_bytes == pytest.approx(400 * MIB)


def test_the_newest_check_of_a_limit_counts_whichever_batch_it_was_of() -> None:
    old = result([*measured(), checked(9, 2132, 1600)], created_utc="2026-01-01T00:00:00Z")
    new = result([*measured(), checked(10, 2132, 1683)], created_utc="2026-01-02T00:00:00Z")
    (found,) = largest_of([new, old])
    assert (found.batch, found.measured_bytes) == (10, 1683 * MIB)
    other = result([checked(5, 900, 850)], created_utc="2026-01-03T00:00:00Z")
    assert {each.batch for each in largest_of([new, old, other])} == {5, 10}


def test_limits_without_a_peak_are_told() -> None:
    found = largest_of([result(measured())], ram_bytes=2132 * MIB, vram_bytes=MIB)
    assert unmeasured(found, 2132 * MIB, None) == unmeasured(found, None, None) == ""
    assert unmeasured(found, 2132 * MIB, 2 * MIB) == (
        "No largest batch within 2.0 MiB VRAM is known: no peak of VRAM was measured."
    )


def test_a_run_that_was_ended_says_why() -> None:
    said = "over the limit of 1.64 GiB RAM: 1.70 GiB, so it was ended"
    (found,) = largest_of([result([*measured(), checked(10, 2132, None, error=said)])])
    assert (found.measured_bytes, found.failed) == (None, said)
    table = largest_table([found], {"env-a": "E1"})
    assert table is not None and said in table.texts[0]


@pytest.mark.parametrize(
    ("peaks", "limit", "words"),
    [
        ({1: 100, 2: 101, 3: 99, 4: 100}, 1000, "up to batch 4 it does not grow"),
        (PEAKS, 199, "not one input keeps to 199.0 MiB"),
    ],
)
def test_why_no_batch_follows(peaks: dict[int, int], limit: int, words: str) -> None:
    found = largest_of([result(measured(peaks))], ram_bytes=limit * MIB)
    table = largest_table(found, {"env-a": "E1"})
    assert table is not None and words in table.texts[0][-1]


def test_too_few_batches_are_told_in_words() -> None:
    few = result(measured({1: 10, 2: 20, 8: 80}))
    found = largest_of([few], ram_bytes=100 * MIB)
    assert largest_table(found, {"env-a": "E1"}) is None
    said = without_line(found)
    assert "fewer than 4 batches of one length" in said and "--batch 1,8,32,128" in said
    assert said.endswith("Here: M::w image torch fp32, RAM (batch 1, 2 and 8).")
    texts = measured({b: 100 + b for b in (1, 2, 3, 4)}, side="text")
    both = largest_of([result([*few.measurements, *texts])], ram_bytes=1000 * MIB)
    table = largest_table(both, {"env-a": "E1"})
    assert table is not None and len(table.rows) == 1 and said in table.caveats
    rows = [*few.measurements, *(timed(cell(batch=b), [0.1] * 6) for b in (1, 2, 8))]
    assert said in size([result(rows)], Targets(1, 0, ram_bytes=100 * MIB)).assumptions
    assert without_line(largest_of([few])) == "", "nothing was asked for"


def test_other_limits_other_towers_and_other_machines_stay_apart() -> None:
    other = dataclasses.replace(ENVIRONMENT, id="env-b")
    texts = measured({b: 100 + b for b in (1, 2, 3, 4)}, side="text")
    there = [dataclasses.replace(row, env_id="env-b") for row in measured()]
    file = result([*measured(), *texts, *there], environments=(ENVIRONMENT, other))
    found = largest_of([file], ram_bytes=2132 * MIB)
    assert [(f.env_id, f.cell.side, f.batch) for f in found] == [
        ("env-a", "image", 10),
        ("env-a", "text", 32),
        ("env-b", "image", 10),
    ]
    assert largest_of([file], vram_bytes=MIB) == largest_of([file]), "no VRAM was measured"
    assert largest_table([], {}) is None


def test_a_sizing_says_it_for_the_budget_that_is_asked_for() -> None:
    rows = [*measured(), *(timed(cell(batch=b), [0.1] * 6) for b in PEAKS)]
    sizing = size([result(rows)], Targets(1, 0, ram_bytes=2132 * MIB))
    assert [each.batch for each in sizing.largest] == [10]
    assert sizing_tables(sizing, {"env-a": ("E1", None)})[-1].title.startswith("Memory over batch")
    assert size([result(rows)], Targets(1, 0)).largest == ()
    # What was checked as it was measured is none of the budgets that are asked for now.
    checked_there = result([*rows, checked(12, 9000, 1683)])
    asked = size([checked_there], Targets(1, 0, ram_bytes=2132 * MIB)).largest
    assert [(each.limit_bytes, each.batch) for each in asked] == [(2132 * MIB, 10)]
