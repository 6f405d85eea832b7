"""benchmarks/gpu.py: a model that fails ends neither the others nor what they leave."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import report_data as data

from clipperf.system import store
from clipperf.system.env import Gpu

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.mark.parametrize("code", [1, -9])
def test_the_next_model_is_measured_after_one_that_failed(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which ended by itself, or by a signal."""
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "gpu-test-RN50-fp16.json").write_text("of an older run")
    asked: list[str] = []

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(words[words.index("profile") + 1])
        assert not Path(words[words.index("--json") + 1]).exists()
        if asked[-1] == "RN50":  # as profile ends where nothing could be measured
            return subprocess.CompletedProcess(words, code)
        found = data.result(
            [data.timed(data.cell(model=asked[-1]), [0.004] * 30)],
            schema_version=store.SCHEMA_VERSION,
        )
        store.write_result(Path(words[words.index("--json") + 1]), found)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(script.env, "gpu", lambda: Gpu("GPU Test", 2**33, "580.1", (9, 0), True))
    monkeypatch.setattr(script, "usable", lambda: ["torch"])
    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--models", "RN50", "ViT-B-32", "--out", str(tmp_path)]
    )
    assert script.main() == 1
    assert asked == ["RN50", "ViT-B-32"]
    assert "RN50: " in capsys.readouterr().err
    assert "torch fp32" in (tmp_path / "gpu-test-ViT-B-32-fp16.md").read_text()
    assert not (tmp_path / "gpu-test-RN50-fp16.md").exists()
