"""How far embeddings moved: one set of them against another of the same inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Drift:
    """Embeddings beside reference ones, row by row.

    `cosines` float64 [n]; rows that are not finite, or zero, have no direction and count 0.
    `max_abs_diff` is the largest difference of two values. `finite` says whether all embeddings
    are. `longer` float64 [n] is how much longer each is than its reference, as a part of that.
    """

    cosines: np.ndarray
    max_abs_diff: float
    finite: bool
    longer: np.ndarray

    @property
    def min_cosine(self) -> float:
        """The cosine of the row that turned farthest."""
        return float(self.cosines.min())

    @property
    def most_longer(self) -> float:
        """How much longer, or shorter below zero, the row is whose length is off the farthest."""
        return float(self.longer[np.abs(self.longer).argmax()])

    @property
    def mean_cosine(self) -> float:
        """The mean over all rows."""
        return float(self.cosines.mean())


LEAST_ROOM = 0.05
"""How much longer or shorter an embedding may be in any precision: the sample's in fp16 are 0.1 %
off, bf16 has 8 bits of every value, and what is lost or scaled twice is off by far more."""


def room_of(min_cosine: float) -> float:
    """How far the length of an embedding may be off, as a part of it, with this least cosine.

    As far as an error that lies along the vector takes it which, across it, would bring its cosine
    down to `min_cosine`: 14 % for 0.99; `LEAST_ROOM` at least.
    """
    return max(LEAST_ROOM, float(np.sqrt(2 * (1 - min_cosine))))


def drift_of(found: np.ndarray, reference: np.ndarray) -> Drift:
    """Compare embeddings [n, dim] with reference ones of the same inputs, in float64."""
    ours, theirs = _without_broken(found), _without_broken(reference)
    lengths = np.linalg.norm(theirs, axis=1)
    return Drift(
        cosines=np.einsum("ij,ij->i", _unit(ours), _unit(theirs)),
        max_abs_diff=float(np.abs(ours - theirs).max()),
        finite=bool(np.isfinite(found).all()),
        longer=np.linalg.norm(ours, axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny) - 1,
    )


def neighbour_agreement(found: np.ndarray, reference: np.ndarray) -> float | None:
    """The share of embeddings [n, dim] whose nearest other one of the reference is the same.

    Row i of both is of one input, and every input is there once. None for fewer than three rows,
    which have one neighbour at most.
    """
    if len(reference) < 3:
        return None
    ours, theirs = _unit(_without_broken(found)), _unit(_without_broken(reference))
    return float(np.mean(_nearest(ours, theirs) == _nearest(theirs, theirs)))


def _without_broken(rows: np.ndarray) -> np.ndarray:
    """In float64, with rows of zeros for those that are not finite."""
    wide = rows.astype(np.float64)
    return np.where(np.isfinite(wide).all(axis=1, keepdims=True), wide, 0.0)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.where(norms > 0, norms, 1)
    return unit


def _nearest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The nearest other row for each query, by cosine of unit rows."""
    similarity = queries @ gallery.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: np.ndarray = similarity.argmax(axis=1)
    return nearest
