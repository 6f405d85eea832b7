"""A result file that is there already: what becomes of it while another run is to replace it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import report_data
from conftest import Install, start
from report_data import cell, score, timed

from clipperf.system import store

TOY = """
import os
import time

import numpy as np
from clipperf.engines.contract import Availability, Runtime

class Engine:
    def __init__(self, request):
        while os.path.exists(os.environ["GATE"]):
            time.sleep(0.02)
        self.dim = request.spec.embed_dim

    def run(self, array):
        time.sleep(5e-3)
        return np.ones((len(array), self.dim), np.float32)

    def close(self):
        pass

RUNTIME = Runtime("gated", None, ("fp32",), ("cpu",), lambda d: Availability(True, "1"), Engine)
"""

OLD = report_data.result(
    [timed(cell(), [0.1] * 6), timed(cell(batch=8), [0.2] * 6)],
    [score(cell())],
    schema_version=store.SCHEMA_VERSION,
)


@pytest.fixture
def gate(install: Install, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, the runtime "gated" does not open a tower."""
    install("gated_runtime", TOY, {"clipperf.runtime": {"gated": "gated_runtime:RUNTIME"}})
    path = tmp_path / "gate"
    path.touch()
    monkeypatch.setenv("GATE", str(path))
    return path


def profile(out: Path) -> subprocess.Popen[str]:
    return start(
        *("profile", "clipperf-sample", "--runtime", "gated", "--tower", "image"),
        *("--batch", 1, "--quick", "--json", out),
    )


def wait_for(process: subprocess.Popen[str], said: str) -> str:
    """What a process says on standard error, up to the line with these words."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if said in line:
            return "".join(lines)
    raise AssertionError(f"{said!r} was not said: {lines}")


def kill(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> str:
    os.kill(process.pid, how)
    _, rest = process.communicate(timeout=30)
    return rest


def rows(path: Path) -> list[Any]:
    data = json.loads(path.read_text())
    return [*data["measurements"], *data["scores"]]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_old_rows_outlive_a_run_that_is_killed_before_its_own(
    how: signal.Signals, gate: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.json"
    store.write_result(out, OLD)
    before = out.read_bytes()
    with profile(out) as process:
        said = wait_for(process, ": memory")
        assert f"{out} holds 3 rows, to be replaced as soon as there are rows" in said
        rest = kill(process, how)
    assert out.read_bytes() == before
    assert "measured so far" not in rest and "Traceback" not in rest
    if how != signal.SIGKILL:
        assert process.returncode == 128 + how
        assert rest.splitlines()[-1] == f"ended by {how.name}"


def test_a_second_run_into_the_same_file_is_refused(gate: Path, tmp_path: Path) -> None:
    out, link = tmp_path / "p.json", tmp_path / "link.json"
    store.write_result(out, OLD)
    link.symlink_to(out)
    with profile(out) as first:
        wait_for(first, ": memory")
        for name in (out, link):
            with profile(name) as second:
                _, said = second.communicate(timeout=60)
            assert second.returncode == 1
            (line,) = said.splitlines()
            assert line.startswith(f"error: another command is writing {name}")
            assert "--json" in line
        gate.unlink()
        first.communicate(timeout=120)
    assert first.returncode == 0
    # Its own rows, memory and time, have replaced the old ones.
    assert [row["cell"]["runtime"] for row in rows(out)] == ["gated"] * 2


def test_a_killed_evaluation_leaves_the_old_scores(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.json"
    store.write_result(out, OLD)
    before = out.read_bytes()
    with start("eval", "clipperf-sample", "--json", out) as process:
        wait_for(process, "clipperf-sample torch fp32")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
    assert out.read_bytes() == before


@pytest.mark.parametrize("command", ["report", "tune clipperf-sample"])
def test_nothing_else_is_written_over_rows(command: str, home: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "p.json", tmp_path / "other.json"
    for path in (out, other):
        store.write_result(path, OLD)
    words = [*command.split(), *([str(other)] if command == "report" else []), "--out", str(out)]
    with start(*words) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"--out {out} holds 3 rows: choose another name" in said
    assert len(rows(out)) == 3
