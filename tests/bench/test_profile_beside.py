"""`clipperf profile` with a limit of RAM, and with engines side by side, on the sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import start, store_of

pytestmark = [pytest.mark.slow]


@pytest.fixture
def stocked(home: Path, sample_artifact: Path) -> None:
    store_of(sample_artifact, home)


def profile(out: Path, *options: object) -> tuple[int, str, list[Any]]:
    """Its exit code, what it prints, and the rows that it leaves."""
    words = ("profile", "clipperf-sample", "--runtime", "onnx", "--tower", "text", "--quick")
    with start(*words, *options, "--json", out) as process:
        printed, said = process.communicate(timeout=400)
    assert out.exists(), said
    return process.returncode, printed, json.loads(out.read_text())["measurements"]


def test_the_largest_batch_is_said_and_run(stocked: None, tmp_path: Path) -> None:
    """Whether it keeps to the limit is what the run is for: both ends are told as they are."""
    code, printed, rows = profile(
        tmp_path / "p.json", "--batch", "32,64,96,128", "--ram-gb", "0.375"
    )
    (check,) = [row for row in rows if row["kind"] == "check"]
    limit, batch = check["foreseen"]["limit_bytes"], check["cell"]["batch"]
    assert limit == 384 * 2**20 and check["foreseen"]["what"] == "RAM" and batch > 128
    assert code == (0 if check["status"] == "ok" else 1)
    if check["status"] == "ok":
        assert 0.8 * limit < check["rss_peak_bytes"] <= limit
    else:
        assert "over the limit of 384.0 MiB RAM" in check["error"]
    assert "Memory over batch" in printed and f" {batch} " in printed


def test_instances_are_measured_side_by_side(stocked: None, tmp_path: Path) -> None:
    code, printed, rows = profile(tmp_path / "i.json", "--batch", "8", "--instances", "1,2")
    times = {row["cell"]["instances"]: row for row in rows if row["kind"] == "time"}
    assert code == 0 and set(times) == {1, 2} and {row["status"] for row in rows} == {"ok"}
    assert not times[1]["workers"] and set(times[2]["workers"]) == {0, 1}
    assert len(times[2]["workers"]) == len(times[2]["run_s"])
    assert "Instances" in printed and "Pays" in printed
