"""The note of past downloads; and that what is copied of a checkpoint is not in RAM twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipperf.models import weights
from clipperf.models.transformers_clip import as_open_clip
from clipperf.system.processes import page_out, status_bytes

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


@pytest.fixture
def resident(tmp_path: Path) -> Callable[[], int]:
    """What is resident of mapped files, in bytes; skips where the kernel does not let go of any."""
    (tmp_path / "probe").write_bytes(b"1" * 2**22)
    mapped = np.memmap(tmp_path / "probe", mode="r")
    mapped.sum()
    read = status_bytes("RssFile") or 0
    page_out(mapped.ctypes.data, mapped.nbytes)
    if (status_bytes("RssFile") or 0) >= read:
        pytest.skip("the kernel lets nothing go")
    return lambda: status_bytes("RssFile") or 0


def test_of_what_is_converted_the_files_pages_are_let_go(
    tmp_path: Path, resident: Callable[[], int]
) -> None:
    state = {f"{n}": torch.full((16, 2**20), float(n), dtype=torch.float16) for n in range(2)}
    save_file(state, tmp_path / "half.safetensors")
    held = weights.open_state_dict(tmp_path / "half.safetensors")
    before = resident()
    whole = {name: weights.as_fp32(tensor) for name, tensor in held.items()}
    assert resident() - before < 16 * 2**20  # of 64
    for name, tensor in state.items():
        assert torch.equal(held[name], tensor)
        assert torch.equal(whole[name], tensor.float())


def test_of_queries_keys_and_values_that_are_joined_too(
    tmp_path: Path, resident: Callable[[], int]
) -> None:
    block = "text_model.encoder.layers.0.self_attn"
    state = {
        f"{block}.{letter}_proj.weight": torch.full((2**12, 2**10), float(n))
        for n, letter in enumerate("qkv")
    }
    save_file(state, tmp_path / "model.safetensors")
    held = weights.open_state_dict(tmp_path / "model.safetensors")
    before = resident()
    (joined,) = as_open_clip(held).values()
    assert resident() - before < 16 * 2**20  # of 48
    assert held == {}
    assert torch.equal(joined, torch.cat(list(state.values())))
