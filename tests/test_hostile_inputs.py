"""`tools/hostile_inputs.py`, in small: the tool itself, and a few of its inputs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from PIL import Image

FEW = ("plain image", "tall RGBA", "pipe", "data uri of 3 MB", "text, entities 200 kB")
FEW_DATASETS = ("dataset, lying zip", "dataset, image device")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("hostile_inputs")


def test_hostile_inputs_do_no_harm(
    tool: ModuleType, sample_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [case for case in tool.CASES if case.name in (*FEW, *FEW_DATASETS)]
    assert len(cases) == 7
    outcomes = tool.run(cases, sample_artifact)
    assert [(outcome.name, outcome.problem) for outcome in outcomes if outcome.problem] == []
    assert "tall RGBA                    embedding" in capsys.readouterr().out


def test_harm_is_seen(
    tool: ModuleType, sample_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound that is passed, another outcome, a process that dies, one that hangs."""

    def red(folder: Path) -> Path:
        Image.new("RGB", (9, 9), "red").save(folder / "a.png")
        return folder / "a.png"

    case = tool.CASES[0]
    greedy = tool.Case("greedy", "image", red, "embedding", peak_mib=1)
    refused = tool.Case("refused", "image", red, "UsageError: ")
    broken = tool.Case("broken", "image", red, "embedding")
    assert tool.attempt(greedy, tmp_path / "1", sample_artifact).problem == "more than 1 MiB"
    found = tool.attempt(refused, tmp_path / "2", sample_artifact)
    assert found.problem == "expected: UsageError: "
    monkeypatch.setattr(tool, "TIMEOUT_S", 0.2)
    assert tool.attempt(case, tmp_path / "3", sample_artifact).problem == "hung 0.2 s"
    monkeypatch.setattr(tool, "TIMEOUT_S", 60)
    monkeypatch.setattr(tool, "CHILD", tmp_path / "absent.py")
    assert tool.attempt(broken, tmp_path / "4", sample_artifact).problem == "died with 2"
