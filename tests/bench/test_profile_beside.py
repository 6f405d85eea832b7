"""`clipperf profile` with a limit of RAM, and with engines side by side, on the sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import start

pytestmark = [pytest.mark.slow]


def profile(out: Path, *options: object) -> tuple[str, list[Any]]:
    """What it prints, and the rows that it leaves."""
    words = ("profile", "clipperf-sample", "--runtime", "onnx", "--tower", "text", "--quick")
    with start(*words, *options, "--json", out) as process:
        printed, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    return printed, json.loads(out.read_text())["measurements"]


def test_the_largest_batch_is_said_and_run(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    printed, rows = profile(out, "--batch", "1,16,64,128", "--ram-gb", "0.5")
    (check,) = [row for row in rows if row["kind"] == "check"]
    foreseen = check["foreseen"]
    assert foreseen["what"] == "RAM" and foreseen["limit_bytes"] == 2**29
    assert check["cell"]["batch"] > 128 and check["status"] == "ok", check["error"]
    assert 0 < check["rss_peak_bytes"] <= 2**29
    assert "Memory over batch" in printed and str(check["cell"]["batch"]) in printed


def test_instances_are_measured_side_by_side(home: Path, tmp_path: Path) -> None:
    printed, rows = profile(tmp_path / "i.json", "--batch", "8", "--instances", "1,2")
    times = {row["cell"]["instances"]: row for row in rows if row["kind"] == "time"}
    assert set(times) == {1, 2} and {row["status"] for row in rows} == {"ok"}
    assert not times[1]["workers"] and set(times[2]["workers"]) == {0, 1}
    assert len(times[2]["workers"]) == len(times[2]["run_s"])
    assert "Instances" in printed and "Pays" in printed
