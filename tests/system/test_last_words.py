"""What an ended process has said, and why it ended: `system.last_words`."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

import pytest

from clipperf.system.last_words import exit_reason, last_words, reason_of_end


def test_reasons_of_an_end() -> None:
    assert exit_reason(0) == "exit code 0"
    assert exit_reason(3) == "exit code 3"
    assert exit_reason(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert exit_reason(-signal.SIGKILL).startswith("killed by SIGKILL (the kernel")
    assert "RAM runs out" in exit_reason(-signal.SIGKILL)
    assert exit_reason(-99) == "killed by signal 99"


def test_only_what_was_said_since_and_its_end() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"before\n" + b"".join(b"line %d\n" % n for n in range(20)))
        file.flush()
        assert last_words(file, 7 + 7 * 10 + 8 * 8) == "line 18\nline 19"
        assert last_words(file, 0).splitlines() == [f"line {n}" for n in range(8, 20)]
        assert file.tell() == 7 + 7 * 10 + 8 * 10  # where the process writes next
        file.write(b"x" * 9000 + b"\nthe end")
        file.flush()
        assert len(last_words(file, 0)) == 1500
        assert last_words(file, 0).endswith("x\nthe end")


def test_the_report_of_a_crash_is_what_counts() -> None:
    with tempfile.TemporaryFile() as file:
        code = "import ctypes; ctypes.string_at(0)"
        done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], stderr=file)
        file.write(b"said by others\n" * 3)
        file.flush()
        said = last_words(file, 0)
    assert said.startswith("Fatal Python error: Segmentation fault")
    assert reason_of_end(said, done.returncode) == "Fatal Python error: Segmentation fault"


@pytest.mark.parametrize(("code", "reason"), [(1, "ValueError: no sense"), (-signal.SIGKILL, "")])
def test_the_reason_of_an_end(code: int, reason: str) -> None:
    assert reason_of_end("a warning\n  ValueError: no sense\n\n", code) == reason
    assert reason_of_end("", code) == ""
