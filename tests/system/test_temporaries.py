"""Scratch folders: a process's own while it lives, gone with it or with what comes next."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clipperf.system import temporaries
from clipperf.system.housekeeping.in_use import using

HOLD = """
import time
from clipperf.system import temporaries
with temporaries.scratch("eval") as folder:
    print(folder, flush=True)
    time.sleep(600)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")


def test_scratch_is_the_users_alone_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "chmod", lambda path, mode: pytest.fail("it was another's before"))
    with temporaries.scratch("eval") as own:
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
    mask = os.umask(0o022)
    try:
        with temporaries.made(tmp_path / "out", folder=True) as own:
            assert stat.S_IMODE(own.stat().st_mode) == 0o755
    finally:
        os.umask(mask)


def test_what_a_killed_process_had_for_scratch_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    mine = tmp_path / ".tmp-mine-clipperf-eval"
    mine.mkdir()
    with temporaries.scratch("eval") as own:
        assert own.parent == tmp_path and stat.S_IMODE(own.stat().st_mode) == 0o700
        with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as p:
            assert p.stdout is not None
            other = Path(p.stdout.readline().strip())
            (other / "dataset.json").touch()
            with using():
                assert other.exists(), "it lives"
            p.kill()
            p.wait()
        assert other.exists()
        with using():
            pass
        assert not other.exists() and own.exists() and mine.exists()
    assert not own.exists()
