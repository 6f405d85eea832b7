"""The finders of `tools/` that break commands, a few cases each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, store_of

sys.path.insert(0, str(ROOT / "tools"))
from breaking import Place

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="strace")]


@pytest.fixture(scope="module")
def place(sample_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both work, on what is made once; its store begins with the sample in fp32."""
    folder = tmp_path_factory.mktemp("breaking")
    template = Place(folder / "template")
    store_of(sample_artifact, template.home, graphs=True)
    template.build()
    return folder


def found(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=1200, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_is_lost_by_kills(place: Path) -> None:
    said = found("tools/kills.py", "--kills", 5, "--in-a-row", 2, "--folder", place)
    assert "5 kills, 0 problems, 3 runs to the end" in said


def test_nothing_is_lost_by_kills_on_a_cluster(place: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'clipperf[ray]'")
    words = ("--ray", "--only", "sweep-ray", "--kills", 2, "--in-a-row", 2, "--folder", place)
    assert "2 kills, 0 problems, 1 runs to the end" in found("tools/kills.py", *words)


def test_nothing_is_lost_where_calls_fail(place: Path) -> None:
    if shutil.which("strace") is None or shutil.which("prlimit") is None:
        pytest.skip("no strace or prlimit here")
    said = found("tools/failing_calls.py", "--cases", 6, "--folder", place)
    assert "6 failing calls, 0 problems" in said
