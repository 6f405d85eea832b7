"""docs/accuracy.md: its code runs as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from published_layouts import classified

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_every_block_of_code_is_run_by_a_test_below() -> None:
    assert [block.split("\n", 1)[0] for block in BLOCKS] == [
        "from clip_benchmark.datasets.builder import build_dataset",
        "import mteb",
    ]


@pytest.fixture
def folder(tmp_path: Path, sample_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where "sample-onnx" is an artifact and "drawings" a WebDataset."""
    shutil.copytree(sample_artifact, tmp_path / "sample-onnx")
    classified(tmp_path / "drawings", [0, 1, 2, 1])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(block: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), found)
    return found


def test_an_artifact_inside_of_clip_benchmark(folder: Path, clip_benchmark: None) -> None:
    found = run(BLOCKS[0])
    assert found["scores"].keys() == {"acc1", "acc5", "mean_per_class_recall"}
    assert 0 <= found["scores"]["acc1"] <= 1
    found["model"].model.close()


def test_an_artifact_inside_of_mteb(folder: Path) -> None:
    pytest.importorskip("mteb", reason="the package mteb is not installed")
    found = run(BLOCKS[1])
    assert len(found["tasks"]) > 10
    assert found["model"].mteb_model_meta.name == "clipperf/clipperf-sample-onnx-fp32"
    found["model"].model.close()
