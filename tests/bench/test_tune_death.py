"""`clipperf tune` where workers are killed late, as the kernel does when RAM runs out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli, Install

OLD = '{"schema_version": 2, "kind": "tuning", "trials": [1, 2]}'

RUNTIMES = """
import os
import signal
import time

import numpy as np
from clipperf.engines.contract import Availability, Runtime

class Steady:
    run_s, lives = 4e-3, None

    def __init__(self, request):
        self.dim, self.calls = request.spec.embed_dim, 0

    def run(self, array):
        self.calls += 1
        if self.calls == self.lives:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.run_s)
        return np.ones((len(array), self.dim), np.float32)

    def close(self):
        pass

class Dies(Steady):
    # Rounds 1 and 2 call it a dozen times in each process, the last one until it is killed.
    run_s, lives = 2e-3, 60

def runtime(name, engine):
    known = lambda device: Availability(True, "toy 1")
    return Runtime(name, "onnx", ("fp32",), ("cpu",), known, engine)

STEADY, DIES = runtime("steady", Steady), runtime("dies", Dies)
"""


@pytest.fixture
def tune(install: Install, cli: Cli, sample_artifact: Path, tmp_path: Path):
    """`tune("steady,dies")` tunes the sample's image tower in these, into a file."""
    points = {name: f"toy_runtimes:{name.upper()}" for name in ("steady", "dies")}
    install("toy_runtimes", RUNTIMES, {"clipperf.runtime": points})

    def run(runtimes: str):
        out = tmp_path / "tuned.json"
        out.write_text(OLD)
        done = cli(
            *("tune", "clipperf-sample", "--tower", "image", "--runtime", runtimes),
            *("--precision", "fp32", "--batch", 1, "--threads", 1, "--minutes", 0.1, "--out", out),
            home=sample_artifact.parents[3],
        )
        return done, out

    return run


def test_a_candidate_that_dies_late_is_a_failed_one(tune) -> None:
    done, out = tune("steady,dies")
    assert done.returncode == 0, done.stderr
    said = f"{out} holds a tuning of 2 candidates, to be replaced when this is done"
    assert said in done.stderr.splitlines()
    tuning = json.loads(out.read_text())
    assert [tower["cell"]["runtime"] for tower in tuning["towers"]] == ["steady"]
    (dead,) = [t for t in tuning["trials"] if t["cell"]["runtime"] == "dies"]
    assert "killed by SIGKILL" in dead["verdict"] and dead["items_per_s"] is None
    assert "killed by SIGKILL" in done.stdout and "Traceback" not in done.stderr


def test_where_all_die_late_the_error_says_of_what(tune) -> None:
    done, out = tune("dies")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: no candidate works: clipperf-sample image dies fp32")
    assert "killed by SIGKILL" in last
    assert "Traceback" not in done.stderr and out.read_text() == OLD
