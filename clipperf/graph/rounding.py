"""Numbers of eight bits: how far they reach, and weights rounded to them by scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipperf.system.env import saturates_int8


@dataclass(frozen=True)
class ByteNumbers:
    """A kind of number; `largest` is the greatest magnitude that is used.

    int8 leaves out -128, so that zero is exact and TensorRT takes the scales. fp8 is E4M3 without
    infinities (https://arxiv.org/abs/2209.05433, table 1).
    """

    name: str
    largest: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy has it."""
        if self is INT8:
            return np.dtype(np.int8)
        import ml_dtypes

        return np.dtype(ml_dtypes.float8_e4m3fn)


INT8 = ByteNumbers("int8", 127)
FP8 = ByteNumbers("fp8", 448)


def scales_for(largest: np.ndarray, most: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Scales of `dtype` that bring magnitudes up to `largest` to at most `most`.

    They stay normal numbers: in float16 the scales of small weights would lose bits or be zero.
    """
    scales = np.where(largest > 0, largest, 1) / most
    return np.maximum(scales, np.finfo(dtype).tiny).astype(dtype)


def rounded(
    weight: np.ndarray, axis: int, numbers: ByteNumbers, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values within -most to most and scales [n] of the weight's type, one an index of `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    full = weight.astype(np.float32)
    scales = scales_for(np.abs(full).max(axis=others, keepdims=True), most, weight.dtype)
    values = np.clip(full / scales.astype(np.float32), -most, most)
    whole = np.rint(values) if numbers is INT8 else values
    return whole.astype(numbers.dtype), scales.reshape(-1)


def safe_weight_max(portable: bool = False) -> int:
    """The largest integer that weights may take where ONNX Runtime runs on this machine's CPU.

    Where products of 8 bits saturate, weights of 7 bits cannot, at the same speed. `portable`: on
    any machine's.
    """
    return INT8.largest // 2 if portable or saturates_int8() else INT8.largest
