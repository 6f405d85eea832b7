"""The towers of the newest open_clip that can be installed, where it is not the one at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("test_open_clip_towers.py", "test_checkpoints.py", "test_lean.py")


@pytest.mark.slow
def test_the_newest_open_clip_gives_the_same_towers(tmp_path: Path) -> None:
    at_hand = version("open_clip_torch")
    words = ("install", "--quiet", "--no-deps", "--target", tmp_path / "newest")
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, words), f"open_clip_torch>{at_hand},<5"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        pytest.skip(f"nothing newer than open_clip_torch {at_hand} can be installed: {last}")
    tests = [str(Path(__file__).with_name(name)) for name in FILES]
    paths = (tmp_path / "newest", ROOT, ROOT / "tests")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    told = (*tests, "-q", "-m", "not slow and not timing", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *told],
        capture_output=True,
        text=True,
        timeout=550,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-4000:]
