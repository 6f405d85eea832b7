"""The largest batch, predicted and then really run, with an engine whose memory is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipperf import cli
from clipperf.bench.cost import QUICK, Limits
from clipperf.bench.jobs import Event, Job, Prepared, run_job
from clipperf.bench.largest import check_limits, foreseen
from clipperf.bench.scenarios import largest_batch
from clipperf.bench.scenarios.largest_batch import describe
from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.memory import LARGEST_BATCH, Foreseen
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Measurement
from clipperf.system import env as environment

MIB = 2**20
SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)


def row(batch: int, ram_mib: int, vram_mib: int | None = None, **more: Any) -> Measurement:
    cell = Cell("m", more.pop("side", "image"), "sim", "fp32", "cpu", batch, 1, **more)
    vram = None if vram_mib is None else vram_mib * MIB
    return Measurement(
        cell, "memory", "ok", "e", rss_peak_bytes=ram_mib * MIB, vram_peak_bytes=vram
    )


def test_the_cell_and_its_peak_by_hand() -> None:
    rows = [row(b, 100 + 10 * b, 50 + 20 * b) for b in (1, 2, 4, 8)]
    ((cell, expected),) = foreseen(rows, Limits(ram_bytes=400 * MIB))
    assert (cell.batch, expected.what, expected.batches) == (30, "RAM", (1, 2, 4, 8))
    assert expected.peak_bytes == pytest.approx(400 * MIB)
    assert expected.residual_bytes == pytest.approx(0, abs=1)
    # Slope 160, residuals -10, 30, -30, 10: 1,650 + 481 at batch 10, see the report's tests.
    scattered = [row(b, peak) for b, peak in ((1, 200), (2, 400), (3, 500), (4, 700))]
    ((cell, expected),) = foreseen(scattered, Limits(ram_bytes=2132 * MIB))
    assert (cell.batch, round(expected.residual_bytes / MIB)) == (10, 481)
    # 50 + 20 b within 250 is the tighter of the two.
    ((cell, expected),) = foreseen(rows, Limits(ram_bytes=400 * MIB, vram_bytes=250 * MIB))
    assert (cell.batch, expected.what) == (10, "VRAM")


def test_what_has_no_line_or_no_room_is_not_run() -> None:
    rows = [row(b, 100 + 10 * b) for b in (1, 2, 4, 8)]
    failed = dataclasses.replace(rows[-1], status="failed")
    assert foreseen([*rows[:3], failed], Limits(ram_bytes=400 * MIB)) == []
    assert foreseen(rows, Limits(ram_bytes=100 * MIB)) == []
    assert foreseen(rows, Limits()) == []


def test_texts_are_as_long_as_the_longest() -> None:
    rows = [row(b, 100 + b * t, side="text", tokens=t) for b in (1, 2, 4, 8) for t in (8, 16)]
    ((cell, _),) = foreseen(rows, Limits(ram_bytes=260 * MIB))
    assert (cell.tokens, cell.batch) == (16, 10)


def test_texts_whose_batches_failed_are_not_asked_about() -> None:
    """100 + 10 b of 8 tokens; of 77 tokens there are three batches, too few for a line."""
    short = [row(b, 100 + 10 * b, side="text", tokens=8) for b in (1, 2, 4, 8)]
    long = [row(b, 100 + 40 * b, side="text", tokens=77) for b in (1, 2, 4)]
    ((cell, expected),) = foreseen([*short, *long], Limits(ram_bytes=400 * MIB))
    assert (cell.tokens, cell.batch) == (8, 30)
    assert expected.peak_bytes == pytest.approx(400 * MIB)


def test_vram_is_of_runtimes_on_a_gpu() -> None:
    check_limits(Limits(vram_bytes=1), {"onnx": "cpu", "trt": "cuda"})
    check_limits(Limits(ram_bytes=1), {"onnx": "cpu"})
    with pytest.raises(UsageError, match=r"none is used \(onnx on cpu\): leave it out"):
        check_limits(Limits(vram_bytes=1), {"onnx": "cpu"})


@pytest.fixture
def simulated(tmp_path: Path) -> Prepared:
    """An engine that takes 40 MiB to run, whatever the batch."""
    path = tmp_path / "fp32.json"
    path.write_text(f'{{"run_bytes": {40 * MIB}, "run_s": 0.2}}')
    cell = Cell("sim", "image", "simulated", "fp32", "cpu", 2, 1)
    return Prepared(EngineRequest(cell, SPEC, str(path)))


def ran(prepared: Prepared, limit_mib: int) -> Measurement:
    expected = Foreseen("RAM", limit_mib * MIB, 90 * MIB, 0.0, (1, 2, 4, 8))
    job = Job("g", LARGEST_BATCH, (dataclasses.replace(prepared, foreseen=expected),), QUICK)
    told: list[Event] = []
    (found,) = run_job(job, environment.capture(), [], told.append)
    assert told[-2].text == describe(found, expected)
    return found


def test_a_batch_runs_within_its_limit(simulated: Prepared) -> None:
    found = ran(simulated, 4096)
    assert (found.kind, found.status, found.group) == ("check", "ok", "g")
    assert found.rss_peak_bytes is not None and 40 * MIB < found.rss_peak_bytes < 4096 * MIB


def test_a_batch_that_takes_more_is_ended(simulated: Prepared) -> None:
    found = ran(simulated, 20)
    assert found.kind == "check" and found.status == "failed"
    assert found.error is not None and "over the limit of 20.0 MiB RAM" in found.error


def test_a_check_that_cannot_be_prepared_is_a_row_of_its_limit(simulated: Prepared) -> None:
    expected = Foreseen("RAM", 4096 * MIB, 90 * MIB, 0.0, (1, 2, 4, 8))
    cell = dataclasses.replace(simulated, foreseen=expected, error="no disk left")
    job = Job("g", LARGEST_BATCH, (cell,), QUICK)
    (found,) = run_job(job, environment.capture(), [], lambda event: None)
    assert (found.kind, found.status, found.error) == ("check", "failed", "no disk left")
    assert found.foreseen == expected


def test_a_peak_that_is_not_measured_passes_nothing(
    simulated: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = Measurement(simulated.request.cell, "memory", "ok", "e")
    monkeypatch.setattr(largest_batch, "memory_pass", lambda *given: blank)
    found = ran(simulated, 4096)
    assert found.status == "failed" and found.foreseen is not None
    assert found.error == "the peak of RAM could not be measured, so nothing was checked"


def test_nothing_is_checked_that_was_not_foreseen(simulated: Prepared) -> None:
    with pytest.raises(UsageError, match="give --ram-gb"):
        run_job(Job("g", LARGEST_BATCH, (simulated,), QUICK), environment.capture(), [], print)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "1,8,32", "--ram-gb", "4"], "at least 4 batches, and 3 are asked for"),
        (["--batch", "1,2,4,8", "--ram-gb", "0"], "give GiB above 0"),
        (
            ["--scenario", "server", "--slo-ms", "50", "--vram-gb", "4"],
            "or --scenario server out",
        ),
        (["--from-files", ".", "--ram-gb", "4"], "leave it or --from-files out"),
    ],
)
def test_limits_from_which_nothing_can_follow(options: list[str], words: str) -> None:
    found = CliRunner().invoke(cli.app, ["profile", *options])
    assert found.exit_code != 0 and found.exception is not None
    assert words in str(found.exception)
