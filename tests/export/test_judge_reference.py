"""Weights that tell no inputs apart: they are refused with what is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WEIGHTS
from safetensors.torch import load_file, save_file

from clipperf.errors import WeightsError
from clipperf.export.judge.reference import check
from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.variant import Side, Variant

EMBEDDINGS = np.array([[1.0, 2.0], [1.5, 2.0], [1.0, 2.5]], np.float32)
DIFFERENT = np.array([[0, 5, 2], [0, 6, 2], [0, 5, 2]])
MATRIX = {"mlp.weight": torch.tensor([[1.0, 2.0]]), "mlp.bias": torch.zeros(2)}


def test_embeddings_that_differ_are_taken() -> None:
    check(EMBEDDINGS, DIFFERENT, MATRIX, "a tower")
    # The last value of one of three differs by 1e-4 of the largest.
    check(np.float32([[0, 100], [0, 100], [0, 100.01]]), DIFFERENT, MATRIX, "a tower")


def test_equal_inputs_have_equal_embeddings() -> None:
    """A tokenizer of a few words may know none of the texts."""
    check(EMBEDDINGS[[0, 0, 0]], DIFFERENT[[0, 0, 0]], MATRIX, "a tower")
    with pytest.raises(WeightsError, match="embeddings of zeros"):
        check(EMBEDDINGS * 0, DIFFERENT[[0, 0, 0]], MATRIX, "a tower")


@pytest.mark.parametrize(
    ("embeddings", "found"),
    [
        ([[1, 2], [1, float("nan")]], "NaN or infinite embeddings in PyTorch fp32. Take"),
        ([[1, 2], [float("-inf"), 2]], "NaN or infinite embeddings in PyTorch fp32. Take"),
        ([[0, 0], [0, 0]], "embeddings of zeros in PyTorch fp32. Take"),
        ([[1, 100], [1, 100.0001]], "the same embedding for every input in PyTorch fp32. Take"),
    ],
)
def test_others_are_refused(embeddings: list[list[float]], found: str) -> None:
    with pytest.raises(WeightsError, match=f"^a tower: its weights give {found}"):
        check(np.float32(embeddings), DIFFERENT[:2], MATRIX, "a tower")


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, "1 of 3 tensors hold NaN .*, for example a"),
        ({"a": torch.full((2, 2), 0.5)}, "1 of 2 tensors hold one value alone, for example a"),
    ],
)
def test_the_tensors_that_are_to_blame_are_named(
    weights: dict[str, torch.Tensor], why: str
) -> None:
    with pytest.raises(WeightsError, match=f"zeros in PyTorch fp32: {why}"):
        check(np.zeros((3, 2), np.float32), DIFFERENT, {**MATRIX, **weights}, "a tower")


def zeros(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor)


def constants(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, 0.02)


def broken(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, float("nan"))


@pytest.mark.parametrize(
    ("change", "side", "said"),
    [
        (zeros, "image", "embeddings of zeros .*tensors hold one value alone"),
        (constants, "text", "the same embedding for every input .*hold one value alone"),
        (broken, "text", "NaN or infinite embeddings .*hold NaN or infinite values"),
    ],
)
def test_a_checkpoint_of_such_weights_is_not_exported(
    change: Callable[[torch.Tensor], torch.Tensor],
    side: Side,
    said: str,
    checkpoints: Path,
    home: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(checkpoints / "a", tmp_path / "model", symlinks=True)
    weights = tmp_path / "model" / WEIGHTS
    save_file({name: change(tensor) for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(WeightsError, match=said):
        make(zoo.resolve(str(tmp_path / "model")), (side,), Variant("onnx"))
    assert not list(home.rglob("manifest.json"))
