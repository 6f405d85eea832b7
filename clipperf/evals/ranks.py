"""Ranks of the right candidates in classification and retrieval. Pure numpy; no model runs here.

Metrics start from a rank per sample: how many wrong candidates score at least as high as
the right one. A tie therefore counts against us: a tower that maps everything to one point gets
0, not 100 %, and the result never depends on the order of the candidates. A sample is a hit at k
where its rank is below k.

Similarities are computed in float64 and two within `TIE` of each other are tied: a float32
matrix product gives identical embeddings different last bits, depending on where they lie in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TIE = 1e-12
"""Cosines closer than this are equal: above float64 rounding, far below float32 rounding."""

_TILE_ROWS = 512
_TILE_COLUMNS = 4096
# One tile of similarities takes 16 MiB, whatever the size of the dataset.


@dataclass(frozen=True)
class Classification:
    """What a zero-shot classifier said of each of n images.

    `predicted` int64 [n] is the best class (the lowest index among tied ones); `ranks` int64 [n]
    counts the wrong classes that score at least as high as the right one.
    """

    predicted: np.ndarray
    ranks: np.ndarray


@dataclass(frozen=True)
class Retrieval:
    """Ranks in both directions between n images and m captions.

    `text_to_image` int64 [m]: wrong images that score at least as high as the caption's own.
    `image_to_text` int64 [n]: captions of other images that score at least as high as the best
    of the image's own captions.
    """

    text_to_image: np.ndarray
    image_to_text: np.ndarray


def normalize(embeddings: np.ndarray) -> np.ndarray:
    """Scale each vector of the last axis to length 1; float32, same shape.

    Raises:
        ValueError: a vector is not finite, or is zero and so has no direction.
    """
    wide = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise ValueError("an embedding holds NaN or infinity")
    if not (lengths > 0).all():
        raise ValueError("an embedding is all zeros")
    return (wide / lengths).astype(np.float32)


def classifier_weights(template_embeds: np.ndarray) -> np.ndarray:
    """One weight vector a class from the embeddings of its prompts: prompt ensembling.

    Takes [classes, templates, dim], returns float32 [classes, dim]: each prompt's embedding is
    normalised, the templates are averaged in embedding space, the mean is normalised again
    (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision", section 3.1.4; the same order as open_clip's build_zero_shot_classifier).

    Raises:
        ValueError: another shape, or prompts that are not finite, zero, or cancel out.
    """
    if template_embeds.ndim != 3 or 0 in template_embeds.shape:
        raise ValueError(f"need [classes, templates, dim], not {list(template_embeds.shape)}")
    return normalize(normalize(template_embeds).mean(axis=1, dtype=np.float64))


def classify(
    images: np.ndarray, weights: np.ndarray, labels: np.ndarray, pools: np.ndarray | None = None
) -> Classification:
    """Zero-shot classification: every image against every class.

    `images` [n, dim] and `weights` [classes, dim] are L2-normalised; `labels` int [n] are the
    right classes. Top-1 is ``hits_at(result.ranks, 1)``. Tied with a wrong class, the right one
    may be `predicted` and still not be a hit. With `pools` int [weights], which do not fall, the
    score of class c is the highest of those weights whose pool it is; each class has one.

    Raises:
        ValueError: shapes do not fit, a label names no class, or an embedding is not finite.
    """
    _check_embeddings(images, weights)
    classes = len(weights) if pools is None else int(pools[-1]) + 1
    starts = None if pools is None else np.searchsorted(pools, np.arange(classes))
    labels = _check_index(labels, len(images), classes, "label", "class")
    wide = weights.astype(np.float64)
    predicted = np.empty(len(images), dtype=np.int64)
    ranks = np.empty(len(images), dtype=np.int64)
    for start in range(0, len(images), _TILE_ROWS):
        rows = slice(start, start + _TILE_ROWS)
        scores = images[rows].astype(np.float64) @ wide.T
        if starts is not None:
            scores = np.maximum.reduceat(scores, starts, axis=1)
        part = by_score(scores, labels[rows])
        predicted[rows], ranks[rows] = part.predicted, part.ranks
    return Classification(predicted, ranks)


def by_score(scores: np.ndarray, labels: np.ndarray) -> Classification:
    """Classification by scores float64 [n, classes], whose labels' entries are overwritten."""
    predicted = np.argmax(scores >= scores.max(axis=1, keepdims=True) - TIE, axis=1)
    own = labels[:, None]
    right = np.take_along_axis(scores, own, axis=1)
    np.put_along_axis(scores, own, -np.inf, axis=1)
    return Classification(predicted, (scores >= right - TIE).sum(axis=1))


def retrieve(images: np.ndarray, captions: np.ndarray, caption_image: np.ndarray) -> Retrieval:
    """Image-text retrieval in both directions, with one or several captions an image.

    `images` [n, dim] and `captions` [m, dim] are L2-normalised; ``caption_image`` int [m] is the
    index of each caption's own image. recall@k follows the CLIP paper and CLIP_benchmark:
    text to image is the share of captions whose image is among the k best images; image to text
    is the share of images that have any of their captions among the k best captions.

    Both directions come from one product in tiles, so memory stays flat: 100 000 images x 500 000
    captions take a tile of 16 MiB beside the embeddings. Nothing is sorted: ranks are counted.

    Raises:
        ValueError: shapes do not fit, an index names no image, an image has no caption, or an
            embedding is not finite.
    """
    _check_embeddings(images, captions)
    caption_image = _check_index(caption_image, len(captions), len(images), "caption", "image")
    own = np.empty(len(captions))
    for start in range(0, len(captions), _TILE_COLUMNS):
        part = slice(start, start + _TILE_COLUMNS)
        pair = images[caption_image[part]].astype(np.float64), captions[part].astype(np.float64)
        own[part] = np.einsum("ij,ij->i", *pair)
    best = np.full(len(images), -np.inf)
    np.maximum.at(best, caption_image, own)
    if not np.isfinite(best).all():
        raise ValueError(f"image {int(np.argmin(best))} has no caption")

    text_to_image = np.zeros(len(captions), dtype=np.int64)
    image_to_text = np.zeros(len(images), dtype=np.int64)
    for left in range(0, len(captions), _TILE_COLUMNS):
        columns = slice(left, left + _TILE_COLUMNS)
        texts = captions[columns].astype(np.float64).T
        for top in range(0, len(images), _TILE_ROWS):
            rows = slice(top, top + _TILE_ROWS)
            scores = images[rows].astype(np.float64) @ texts
            # Only wrong candidates are counted: take the right pairs out of the tile.
            at = caption_image[columns] - top
            inside = np.flatnonzero((at >= 0) & (at < len(scores)))
            scores[at[inside], inside] = -np.inf
            text_to_image[columns] += (scores >= own[columns] - TIE).sum(axis=0)
            image_to_text[rows] += (scores >= best[rows, None] - TIE).sum(axis=1)
    return Retrieval(text_to_image, image_to_text)


def hits_at(ranks: np.ndarray, k: int) -> np.ndarray:
    """Whether each sample is right within its k best candidates: bool, as long as `ranks`.

    With k at or above the number of candidates every sample is a hit.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return ranks < k


def chance_any_in_top(k: int, candidates: int | np.ndarray, right: np.ndarray) -> float:
    """Expected share of samples with a right candidate among k drawn at random.

    `right` int [n] is how many of the `candidates`, one number or int [n], are right for each
    sample, at least one. For one sample it is 1 - C(candidates - right, k) / C(candidates, k); with
    one right candidate, k / candidates.
    """
    missed = np.ones(len(right))
    for drawn in range(k):
        missed *= np.maximum(candidates - right - drawn, 0) / np.maximum(candidates - drawn, 1)
    return float(1 - missed.mean())


def _check_embeddings(left: np.ndarray, right: np.ndarray) -> None:
    """Both must be non-empty finite matrices of one width: NaN compares false and would hit."""
    for matrix in (left, right):
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(f"need embeddings [n, dim], not {list(matrix.shape)}")
        if not np.isfinite(matrix).all():
            raise ValueError("an embedding holds NaN or infinity")
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"image embeddings have {left.shape[1]} values, text {right.shape[1]}")


def _check_index(index: np.ndarray, length: int, below: int, what: str, of: str) -> np.ndarray:
    """`index` as int64 [length] with every value in [0, below)."""
    index = np.asarray(index, dtype=np.int64)
    if index.shape != (length,):
        raise ValueError(f"need one {of} index for each of {length}, not {list(index.shape)}")
    if index.min() < 0 or index.max() >= below:
        raise ValueError(f"a {what} names {of} {int(index.max())}, but there are only {below}")
    return index
