"""The wheel: builds, holds its data within the size that was promised, and runs when installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from clipperf.engines import ort_providers

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


@pytest.mark.parametrize(("extra", "newest"), [("trt", "11.4.0.106"), ("ort-trt", "10.16.1.11")])
def test_no_tensorrt_is_asked_for_that_can_no_longer_be_installed(extra: str, newest: str) -> None:
    """Those for CUDA 13 before 10.14.1.48.post1 need a package that is a placeholder by now."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in extras["optional-dependencies"][extra]]
    (bound,) = (each.specifier for each in wanted if each.name == "tensorrt-cu13")
    broken = ("10.13.2.6", "10.13.3.9", "10.13.3.9.post1", "10.14.1.48")
    assert not any(bound.contains(version) for version in broken)
    assert all(bound.contains(version) for version in ("10.14.1.48.post1", newest))
    if extra == "ort-trt":  # what `doctor` says is the same
        assert bound == SpecifierSet(ort_providers.TENSORRT_10)
