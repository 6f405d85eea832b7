"""Whether PyTorch's own embeddings tell inputs apart: what everything else is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from clipperf.errors import WeightsError

if TYPE_CHECKING:
    import torch

SAME = 1e-5
"""Embeddings of different inputs that differ by less, of their largest value, are the same: more
than fp32's rounding, and far less than towers with random weights differ by."""


def check(
    embeddings: np.ndarray, inputs: np.ndarray, weights: Mapping[str, torch.Tensor], label: str
) -> None:
    """Refuse a tower whose embeddings [n, dim] are not finite, zeros, or the same for all inputs.

    `inputs` [n, ...] are theirs: a small vocabulary, or a short context, can make all of them
    equal, and so their embeddings. `weights` are the tower's; the message names one of those that
    hold no numbers, or one number alone.

    Raises:
        WeightsError: it is one.
    """
    finite = bool(np.isfinite(embeddings).all())
    largest, apart = np.abs(embeddings).max(), np.ptp(embeddings, axis=0).max()
    if finite and largest > 0 and (apart > SAME * largest or not np.ptp(inputs, axis=0).any()):
        return
    found = "NaN or infinite embeddings" if not finite else "the same embedding for every input"
    if largest == 0:
        found = "embeddings of zeros"
    raise WeightsError(
        f"{label}: its weights give {found} in PyTorch fp32{_cause(weights)}. Take a checkpoint "
        f"that was saved whole, of a model that was loaded and whose training did not fail"
    )


def _cause(weights: Mapping[str, torch.Tensor]) -> str:
    """In words, what is wrong with the weights, where that can be seen."""
    broken = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if broken:
        return _said(broken, weights, "hold NaN or infinite values")
    matrices = {name: tensor for name, tensor in weights.items() if tensor.dim() > 1}
    constant = [name for name, t in matrices.items() if bool((t == t.flatten()[0]).all())]
    return _said(constant, matrices, "hold one value alone") if constant else ""


def _said(names: list[str], weights: Mapping[str, torch.Tensor], what: str) -> str:
    return f": {len(names)} of {len(weights)} tensors {what}, for example {names[0]}"
