"""Commands where everything about them is odd at once: disk, clock, umask, locale, names."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Cli, leftovers
from surroundings import OLD, PLAIN, clock_backwards

from clipperf.models.sample import NAME
from clipperf.system import store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="surroundings of POSIX"),
]


def test_export_profile_and_report(
    elsewhere: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Store and artifact lie on two file systems, under names that the locale has no letters for;
    the clock goes backwards in all processes, and nothing is for others to read. Where not even
    Python knows how to read such names, that is said before anything is made."""
    home, out, result = elsewhere / "Läger", tmp_path / "Türme 深", tmp_path / "Ergebnis ü.json"
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    clock_backwards(tmp_path, monkeypatch)
    options = ("--tower", "text", "--quiet")
    measured = ("--runtime", "onnx", "--batch", 1, "--quick", "--json", result)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OLD.items():
            patch.setenv(name, value)
        refused = cli("export", NAME, *options, "--out", out, home=home)
    assert refused.returncode == 2 and "this locale has no UTF-8 (PYTHONUTF8=1" in refused.stderr
    assert not out.exists()
    before = os.umask(0o077)
    try:
        cli("export", NAME, *options, "--out", out, home=home, check=True)
        again = cli("export", NAME, *options, "--out", out, home=home, check=True)
        cli("profile", NAME, *options, *measured, home=home, check=True)
        told = cli("report", result, home=home, check=True).stdout
    finally:
        os.umask(before)
    assert "up to date" in again.stdout
    assert cli("inspect", out, home=home).returncode == 0 and NAME in told
    assert store.check_files(out, store.read_manifest(out), content=True) == []
    found = store.read_result(result)
    times = [row.run_s for row in found.measurements if row.kind == "time"]
    assert times and all(seconds > 0 for each in times for seconds in each)
    assert found.created_utc < datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for folder in (out, home):
        for path in (folder, *folder.rglob("*")):
            assert path.is_symlink() or not path.stat().st_mode & 0o077, path
    assert not leftovers(elsewhere) and not leftovers(tmp_path)
