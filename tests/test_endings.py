"""Commands that are told to end: by a supervisor, or by a terminal that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, store_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

COMMANDS = {
    "export": ("export", "clipperf-sample", "--tower", "image", "--precision", "fp16"),
    "eval": ("eval", "clipperf-sample", "--runtime", "onnx", "--precision", "fp32"),
}


@pytest.mark.parametrize(("name", "number"), [("export", signal.SIGTERM), ("eval", signal.SIGHUP)])
def test_a_command_that_is_told_to_end_cleans_up(
    sample_artifact: Path, home: Path, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    store_of(sample_artifact, home)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "clipperf", *COMMANDS[name], "--json", tmp_path / "e.json"]
        if name == "eval"
        else [sys.executable, "-m", "clipperf", *COMMANDS[name]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline()
        end = time.monotonic() + 60
        while not (children := psutil.Process(process.pid).children()) and time.monotonic() < end:
            time.sleep(0.02)
        assert children
        process.send_signal(number)
        process.send_signal(number)  # a second one does not stop the cleaning up
        rest = process.stderr.read()
        assert process.wait(60) == 128 + number
    assert "Traceback" not in rest
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    assert [path.name for path in home.rglob(".*")] == []
    assert list(scratch.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As `nohup` starts a command."""
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from clipperf import __main__ as script\n"
        "script._handle(script._end)\n"
        "print(signal.getsignal(signal.SIGHUP).name, callable(signal.getsignal(signal.SIGTERM)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["SIG_IGN", "True"]
