"""Pixels and token ids that were made elsewhere: whether a tower may be given them."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipperf.errors import UsageError
from clipperf.inputs.decode import is_one
from clipperf.inputs.preprocess import normalise
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.variant import PIXEL_DTYPES, PixelDtype
from clipperf.text import quoted


def checked_pixels(pixels: np.ndarray, spec: PreprocessSpec, taken: PixelDtype) -> np.ndarray:
    """Images [n, 3, height, width] for a tower that takes pixels of a dtype.

    Raises:
        UsageError: they are none; the message says what they are, and what to do.
    """
    if not isinstance(pixels, np.ndarray):
        raise UsageError(f"encode_pixels takes a numpy array, not a {type(pixels).__name__}")
    said = f"encode_pixels was given {pixels.dtype} {list(pixels.shape)}"
    wanted = ["n", *spec.shape]
    if pixels.shape[1:] != spec.shape:
        last = pixels.ndim == 4 and pixels.shape[1:] == (*spec.shape[1:], 3)
        one = pixels.shape == spec.shape
        fix = "; pixels.transpose(0, 3, 1, 2) has its channels there" if last else ""
        fix = "; pixels[None] is a batch of one image" if one else fix
        raise UsageError(f"{said}, this model takes {wanted}{fix}")
    if pixels.dtype not in PIXEL_DTYPES:
        raise UsageError(f"{said}: give uint8, the bytes of images, or float32, normalised")
    if pixels.dtype == np.uint8 or not len(pixels):
        return pixels
    if taken == "uint8":
        raise UsageError(f"{said}: this image tower normalises by itself: give it bytes, uint8")
    lowest = min(-mean / std for mean, std in zip(spec.mean, spec.std, strict=True))
    highest = max((1 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True))
    found = float(pixels.min()), float(pixels.max())
    # As much again on either side, for those who resize after normalising.
    room = highest - lowest
    if not lowest - room <= found[0] <= found[1] <= highest + room:
        raise UsageError(
            f"{said} with values from {found[0]:.4g} to {found[1]:.4g}; normalised pixels lie "
            f"between {lowest:.4g} and {highest:.4g}: (pixels / 255 - mean) / std, or give uint8"
        )
    return pixels


def as_taken(pixels: np.ndarray, spec: PreprocessSpec, taken: PixelDtype) -> np.ndarray:
    """A batch of checked pixels in the dtype that a tower takes."""
    if pixels.dtype == taken:
        return np.ascontiguousarray(pixels)
    floats = pixels.astype(np.float32, order="C")
    normalise(floats, spec)
    return floats


def checked_tokens(
    tokens: np.ndarray, tokenizer: Tokenizer, *, shorter: bool, first_token: int | None
) -> np.ndarray:
    """Texts as int64 [n, context_tokens], padded where they may be `shorter`.

    Raises:
        UsageError: they are none; the message says what they are, and what to do.
    """
    if not isinstance(tokens, np.ndarray):
        raise UsageError(f"encode_tokens takes a numpy array, not a {type(tokens).__name__}")
    said = f"encode_tokens was given {tokens.dtype} {list(tokens.shape)}"
    context = tokenizer.context_tokens
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise UsageError(f"{said}: give whole numbers [n, tokens], as int64")
    columns = tokens.shape[1]
    if not (1 <= columns <= context if shorter else columns == context):
        many = f"1 to {context}" if shorter else f"{context}"
        how = "begun and ended" if shorter else "padded"
        raise UsageError(
            f"{said}: this model takes {many} tokens a text, {how} as its tokenizer does"
        )
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < tokenizer.vocabulary):
        ids = f"{tokens.min()} to {tokens.max()}"
        raise UsageError(f"{said} with ids from {ids}: there are 0 to {tokenizer.vocabulary - 1}")
    if first_token is not None:
        wrong = np.flatnonzero(tokens[:, 0] != first_token)
        if len(wrong):
            raise UsageError(
                f"{said}: text {wrong[0]} begins with {quoted(int(tokens[wrong[0], 0]))}, this "
                f"tower takes every text to begin with {first_token}, and does not look"
            )
    padded = np.full((len(tokens), context), tokenizer.spec.pad_id, np.int64)
    padded[:, :columns] = tokens
    return padded


def listed(values: Any, advice: str) -> list[Any]:
    """The values as a list; a single one, which users pass by mistake, is refused."""
    if is_one(values) or isinstance(values, dict):
        raise UsageError(advice)
    try:
        return list(values)
    except TypeError as exc:
        raise UsageError(advice) from exc


def finished(found: np.ndarray | None, embed_dim: int, normalize: bool) -> np.ndarray:
    """Embeddings as they are handed over, float32 [n, embed_dim]; None: of no inputs."""
    if found is None:
        return np.zeros((0, embed_dim), np.float32)
    if normalize:
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    return np.ascontiguousarray(found, dtype=np.float32)
