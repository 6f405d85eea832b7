"""What the tests' own Triton may skip, and what it has to fail for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import other_tools
import pytest

SERVER = other_tools.Server("http://127.0.0.1:9", "127.0.0.1:9")
"""Nobody listens there."""

STARTED = "I1127 10:00:00.000000 1 server.cc:100] Started\n"
LOADING = 'I1127 10:00:01.000000 1 model_lifecycle.cc:472] "loading: clip_text:1"\n'


@pytest.fixture
def hanging() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


@pytest.fixture
def dead() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process


@pytest.mark.parametrize("state", ["hanging", "dead"])
@pytest.mark.parametrize(
    ("log", "outcome"),
    [(STARTED, pytest.skip.Exception), (STARTED + LOADING, AssertionError)],
)
def test_who_came_as_far_as_a_model_of_ours_is_no_reason_to_skip(
    state: str,
    log: str,
    outcome: type[BaseException],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    logs = tmp_path / "log"
    logs.write_text(log)
    with pytest.raises(outcome):
        other_tools.wait_until_ready(SERVER, request.getfixturevalue(state), logs, seconds=0.5)
