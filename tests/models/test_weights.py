"""The note of past downloads: of help where it is whole, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipperf.models import weights

NAME = "ViT-B-32::laion2b"


@pytest.fixture
def fetched(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that the hub's client gives, wherever it is asked."""
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    monkeypatch.setattr(weights, "_fetch", lambda architecture, tag: file)
    return file


@pytest.mark.parametrize(
    "note",
    [
        *("", "{", "[]", "[1]", "7", "null", '"text"', "\x00", "[" * 5000),
        *(json.dumps({NAME: value}) for value in (None, 7, [], {}, ["a"], "", True)),
    ],
)
def test_a_damaged_note_is_an_absent_one(fetched: Path, home: Path, note: str) -> None:
    home.mkdir()
    (home / "fetched.json").write_text(note)
    assert weights.known("ViT-B-32", "laion2b") is None
    assert weights.locate("ViT-B-32", "laion2b") == fetched
    assert weights.known("ViT-B-32", "laion2b") == fetched
    assert json.loads((home / "fetched.json").read_text()) == {NAME: str(fetched)}


def test_what_is_gone_is_fetched_again(fetched: Path, home: Path, tmp_path: Path) -> None:
    home.mkdir()
    other = {NAME: str(tmp_path / "gone"), "RN50::openai": "/somewhere"}
    (home / "fetched.json").write_text(json.dumps(other))
    assert weights.locate("ViT-B-32", "laion2b") == fetched
    noted = json.loads((home / "fetched.json").read_text())
    assert noted == {NAME: str(fetched), "RN50::openai": "/somewhere"}


def test_a_note_that_cannot_be_written_stops_nothing(fetched: Path, home: Path) -> None:
    home.write_text("a file in the place of the store")
    assert weights.locate("ViT-B-32", "laion2b") == fetched
