"""From the embeddings of images and texts to the probability that they belong together."""

from __future__ import annotations

import math

import numpy as np

from clipperf.errors import UsageError
from clipperf.nouns.model import Similarity
from clipperf.text import quoted


def probabilities(
    how: Similarity | None, image_embeds: np.ndarray, text_embeds: np.ndarray, embed_dim: int
) -> np.ndarray:
    """float32 [images, texts]; see `ClipModel.probabilities`.

    A row of NaN, as of an image that cannot be read, stays one.

    Raises:
        UsageError: embeddings are not [n, embed_dim], or the model does not say how.
    """
    if how is None:
        raise UsageError(
            "this model has no logit_scale, which probabilities need: its weights are random, or "
            "hold none; or it was exported by an earlier clipperf, then export it again"
        )
    images, texts = (
        _unit(embeds, name, embed_dim)
        for embeds, name in ((image_embeds, "image_embeds"), (text_embeds, "text_embeds"))
    )
    logits = images @ texts.T
    logits *= np.float32(math.exp(how.logit_scale))
    if how.logit_bias is not None:
        logits += np.float32(how.logit_bias)
    if how.kind == "sigmoid":
        with np.errstate(invalid="ignore"):
            return np.exp(-np.logaddexp(np.float32(0), -logits))
    if not logits.size:
        return logits
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _unit(embeds: np.ndarray, name: str, embed_dim: int) -> np.ndarray:
    found = np.asarray(embeds)
    if found.ndim != 2 or found.shape[1] != embed_dim or found.dtype.kind != "f":
        raise UsageError(
            f"{name} is {quoted(found.dtype)} {list(found.shape)}: give what encode_images and "
            f"encode_texts return, [n, {embed_dim}]"
        )
    found = found.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit
