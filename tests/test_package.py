"""The wheel: builds, holds its data within the size that was promised, and runs when installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_LIMIT_BYTES = 15_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_model_and_data_stay_within_15_mb(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sample = [e for e in archive.infolist() if e.filename.startswith("clipperf/data/sample/")]
    assert {"model.safetensors", "eval.zip", "NOTICE.md"} <= {Path(e.filename).name for e in sample}
    assert sum(entry.compress_size for entry in sample) <= SAMPLE_LIMIT_BYTES


def test_licences_and_figures_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for wanted in ("LICENSE", "LICENSE-Apache-2.0.txt", "LICENSE-MIT.txt", "NOTICE.md"):
        assert any(name.endswith(f"/{wanted}") for name in names), wanted
    assert "clipperf/data/reference/clip_as_service_basic_statistics.csv" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]


def test_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-index", "--target", str(tmp_path / "site"), str(wheel)),
        ],
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [sys.executable, "-m", "clipperf", "models", "--search", "clipperf-sample"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "clipperf-sample" in done.stdout
