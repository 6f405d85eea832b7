"""Signals that ask a command to end: one line, exit code 128 + N, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import ROOT, leftovers, start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "ended by SIGTERM",
    signal.SIGHUP: "ended by SIGHUP",
}

MAIN = """
import os, signal, sys, time
from clipperf import __main__
signal.signal(signal.SIGINT, signal.default_int_handler)
number, when = int(sys.argv.pop(1)), sys.argv.pop(1)

def ask():
    os.kill(os.getpid(), number)
    for _ in range(1000):
        pass

{code}
__main__.main()
"""

WHILE_IMPORTING = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == when:
            ask()

sys.meta_path.insert(0, Finder())
"""

IN_A_CLASS = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == when:
            class Name:
                def __set_name__(self, owner, name):
                    ask()
            try:
                class Named:
                    name = Name()
            except Exception:
                pass  # as libraries do whose optional parts cannot be imported

sys.meta_path.insert(0, Finder())
"""

IN_A_CALLBACK = """
from clipperf import cli

class Gone:
    def __del__(self):
        ask()

def app(standalone_mode):
    Gone()
    time.sleep(60)

cli.app = app
"""

AS_AN_ERROR = """
from clipperf import cli
from clipperf.errors import EngineError

def app(standalone_mode):
    try:
        ask()
    except BaseException as exc:
        raise EngineError("the library was interrupted") from exc

cli.app = app
"""

AT_THE_END = """
import atexit
atexit.register(ask)
"""


def ended(code: str, number: int, *words: str, when: str = "") -> subprocess.CompletedProcess[str]:
    code = MAIN.format(code=textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, "-c", code, str(int(number)), when, *words],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
    )


@pytest.mark.parametrize("number", WORDS)
@pytest.mark.parametrize(
    ("code", "when"),
    [
        (WHILE_IMPORTING, "clipperf.cli"),
        (WHILE_IMPORTING, "rich.console"),
        (IN_A_CLASS, "rich.console"),
        (IN_A_CALLBACK, ""),
        (AS_AN_ERROR, ""),
    ],
)
def test_a_signal_at_any_time_is_one_line(
    number: signal.Signals, code: str, when: str, home: Path
) -> None:
    done = ended(code, number, "models", when=when)
    assert done.returncode == 128 + number
    assert done.stderr.splitlines()[-1] == WORDS[number]
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


@pytest.mark.parametrize("number", WORDS)
def test_a_signal_when_all_is_done(number: signal.Signals, home: Path) -> None:
    done = ended(AT_THE_END, number, "--version")
    assert done.returncode == 128 + number
    assert done.stdout.startswith("clipperf") and done.stderr == ""


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    code = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + textwrap.dedent(IN_A_CALLBACK)
    done = ended(code.replace("60", "0.1"), signal.SIGHUP)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_export_that_is_ended_leaves_nothing(number: signal.Signals, home: Path) -> None:
    with start("export", "clipperf-sample", "--tower", "image") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("image tower: ")
        # A terminal that closes sends several.
        for _ in range(3):
            os.kill(process.pid, number)
            time.sleep(0.01)
        rest = process.stderr.read()
        assert process.wait(60) == 128 + number
    assert rest.splitlines()[-1] == WORDS[number]
    assert "memory" not in rest and "Traceback" not in rest
    assert not leftovers(home)
