"""`tools/malformed_inputs.py`, in small: its kinds, that it sees what is wrong, a few inputs."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

pytest.importorskip("hypothesis")
pytest.importorskip("pyarrow")
pytest.importorskip("urllib3")

DAMAGED_ALWAYS = ("option", "urls")
"""One whose lines no single reader takes; one that a server of another process answers."""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("malformed_inputs")


def test_whole_inputs_are_right(tool: ModuleType, tmp_path: Path) -> None:
    """What is said of damaged ones is no fault of what they are damaged from."""
    for name, kind in tool.KINDS.items():
        if name not in DAMAGED_ALWAYS:
            kind.write(tmp_path / name / "in")
            file = next((tmp_path / name / "in").rglob(kind.mutates))
            assert kind.use(tmp_path / name / "in", file) is None, name


def test_what_is_wrong_is_seen(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another input's vector, one that is not finite, rows that are lost, another shard."""
    datasets = importlib.import_module("malformed_datasets")
    vectors = importlib.import_module("malformed_vectors")
    tar = datasets.SOURCES["tar"]
    tar.write(tmp_path / "1" / "in")
    found = tar.found(tmp_path / "1" / "in")
    other = dict(zip(found, reversed(found.values()), strict=True))
    assert len(found) == datasets.IMAGES
    said = vectors.used(replace(tar, found=lambda folder: other), tmp_path / "1" / "in")
    assert said.startswith("the vector of 'a.tar/in/x0' is that of another input")
    state = tool.KINDS["state"]
    state.write(tmp_path / "2" / "in")
    (tmp_path / "2" / "in" / "whole" / "shard-000001.npy").write_bytes(b"")
    with pytest.raises(tool.Wrong, match=r"npy is not that of an undisturbed run"):
        state.use(tmp_path / "2" / "in", Path())
    merge = tool.KINDS["merge"]
    merge.write(tmp_path / "3")
    kinds = importlib.import_module("malformed_kinds")
    monkeypatch.setattr(kinds, "merged", lambda parts, command: parts[0])
    with pytest.raises(tool.Wrong, match="measurements are lost"):
        merge.use(tmp_path / "3", Path())


def test_what_is_written_outside_is_seen(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    guard = tool.Guard()
    try:
        guard.folder = str(tmp_path / "in")
        (tmp_path / "in" / "a").write_text("x")
        (tmp_path / "in" / "a").rename(tmp_path / "in" / "b")
        descriptor = os.open(tmp_path / "in", os.O_RDONLY)
        os.unlink("b", dir_fd=descriptor)
        os.close(descriptor)
        assert (tmp_path / "in").is_dir() and guard.outside == []
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").rename(tmp_path / "in" / "a")
        (tmp_path / "c").mkdir()
        assert [said.split()[0] for said in guard.outside] == ["open", "os.rename", "os.mkdir"]
    finally:
        guard.folder = ""


@pytest.mark.slow
def test_malformed_inputs_do_no_harm(tool: ModuleType, tmp_path: Path) -> None:
    subjects = tmp_path / "subjects"
    for name, kind in tool.KINDS.items():
        kind.write(subjects / name)
    found = tool.run(subjects, 150, 0, 0, tool.work)
    assert [one.what for one in found if one.outcome in tool.FAILURES] == []
    assert len(found) == 150 and {one.outcome for one in found} == {"refused", "used"}
