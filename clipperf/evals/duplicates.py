"""Near-duplicates: which images of one set are those of another, changed or not.

Appendix C of the CLIP paper. Embeddings alone are weak at finding them: they are semantic, so that
two photos of one kind lie closer than two copies of one photo resized in different ways. So
perceptual hashes come first (the signs of the lowest frequencies of a small grey copy: pHash), of
the whole image and of crops of it. What they find near is one image where small copies in colour
agree, or, where there are embeddings, these do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipperf.inputs.sources import ImageSource

SIZE, KEPT = 32, 8
"""A grey copy of so many pixels a side, of which so many frequencies a side are kept."""

CROPS = (
    (0.0, 0.0, 1.0),
    *((x, y, 0.85) for x, y in ((0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))),
    (0.5, 0.5, 0.7),
)
"""Where a crop lies, from 0 to 1 both ways, and its share of both sides. The first is the whole."""

NEAR_BITS = 14
"""Hashes that differ in more of their 63 bits are of two images."""

LIKE_COLOURS, LIKE_EMBEDDINGS = 0.95, 0.9
"""The correlation of small copies, or the cosine of embeddings, from which near is the same."""

CANDIDATES = 8
"""The nearest ones by hash that are looked at."""

THUMB = 16
"""Pixels a side of a small copy in colour."""

_ROWS, _OTHERS = 256, 8192
"""A tile of hashes that are compared: 16 MiB."""


@dataclass(frozen=True)
class Seen:
    """What is known of n images after each was decoded once.

    `hashes` are uint64 [n, crops], the whole image's first; `known_by` of each image are the
    checksums of its bytes and of its pixels.
    """

    hashes: np.ndarray
    known_by: tuple[tuple[str, str], ...]


def seen(images: Iterable[ImageSource]) -> Seen:
    """Look at images, one at a time."""
    hashes, known_by = [], []
    for source in images:
        data = source.read()
        image = source.open()
        hashes.append(signature(image))
        plain = image.convert("RGBA")
        pixels = hashlib.sha256(f"{plain.size} ".encode() + plain.tobytes()).hexdigest()
        known_by.append((hashlib.sha256(data).hexdigest(), pixels))
    return Seen(np.array(hashes, np.uint64).reshape(-1, len(CROPS)), tuple(known_by))


def signature(image: Image.Image) -> np.ndarray:
    """The hashes of an image, uint64 [crops]."""
    found = []
    for small in _crops(image.convert("RGB").convert("L"), SIZE):
        waves = (_COSINES @ small @ _COSINES.T).ravel()[1:]  # without the brightness
        found.append(np.packbits(np.append(waves > np.median(waves), False)).view(">u8")[0])
    return np.array(found, np.uint64)


def colours(image: Image.Image) -> np.ndarray:
    """Small copies of the crops in colour, each of length 1 around its mean: [crops, values]."""
    rows = []
    for small in _crops(image.convert("RGB"), THUMB):
        centred = small.reshape(-1, 3) - small.reshape(-1, 3).mean(axis=0)
        rows.append(centred.ravel() / max(float(np.linalg.norm(centred)), 1e-9))
    return np.array(rows)


def _crops(image: Image.Image, size: int) -> Iterator[np.ndarray]:
    for x, y, share in CROPS:
        width, height = image.width * share, image.height * share
        left, top = x * (image.width - width), y * (image.height - height)
        box = (left, top, left + width, top + height)
        yield np.asarray(image.resize((size, size), Image.Resampling.BOX, box), np.float64)


_COSINES = np.cos(np.pi * np.outer(np.arange(KEPT), np.arange(SIZE) + 0.5) / SIZE)


@dataclass(frozen=True)
class Match:
    """Image `own` of the evaluated set and its nearest in the other one.

    `bits` of the hashes differ, `colour` is the correlation of small copies, and `cosine` that of
    embeddings; None without.
    """

    own: int
    other: int
    bits: int
    colour: float
    cosine: float | None = None


def near_duplicates(
    own: Sequence[ImageSource],
    other: Sequence[ImageSource],
    embedded: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Match]:
    """At most one near-duplicate in the other set for each image of the evaluated one.

    One of the same bytes or pixels is always one. `embedded` are the L2-normalised embeddings
    [n, dim] of both. A crop of one is compared with the whole of the other. Images are decoded one
    at a time; those that are near, once more.

    Raises:
        UsageError: an image cannot be read.
    """
    mine, theirs = seen(own), seen(other)
    copies: dict[str, int] = {}
    for at, known_by in enumerate(theirs.known_by):
        for one in known_by:
            copies.setdefault(one, at)
    found = []
    for at, near in enumerate(_nearest(mine.hashes, theirs.hashes)):
        there = next((copies[one] for one in mine.known_by[at] if one in copies), None)
        if there is not None:
            found.append(Match(at, there, 0, 1.0, _cosine(embedded, at, there)))
        elif near and (same := _looked_at_again(own[at], at, other, near, embedded)):
            found.append(max(same, key=lambda match: match.colour))
    return found


def _looked_at_again(
    image: ImageSource,
    at: int,
    other: Sequence[ImageSource],
    near: Sequence[tuple[int, int]],
    embedded: tuple[np.ndarray, np.ndarray] | None,
) -> list[Match]:
    """Those of the nearest by hash (bits, index) that are the same image by more than that."""
    mine = colours(image.open())
    matches = []
    for bits, there in near:
        theirs = colours(other[there].open())
        like = max(float((mine @ theirs[0]).max()), float((theirs @ mine[0]).max()))
        matches.append(Match(at, there, bits, like, _cosine(embedded, at, there)))
    return [match for match in matches if _same(match)]


def _cosine(embedded: tuple[np.ndarray, np.ndarray] | None, at: int, there: int) -> float | None:
    return None if embedded is None else float(embedded[0][at] @ embedded[1][there])


def _same(match: Match) -> bool:
    alike = match.cosine is not None and match.cosine >= LIKE_EMBEDDINGS
    return alike or match.colour >= LIKE_COLOURS


def _nearest(own: np.ndarray, other: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """Of each row the nearest of the others, as (bits, index), `CANDIDATES` of them at most.

    Tile by tile, so that memory does not grow with their numbers.
    """
    for start in range(0, len(own), _ROWS):
        rows = own[start : start + _ROWS]
        nearest: list[list[tuple[int, int]]] = [[] for _ in rows]
        for left in range(0, len(other), _OTHERS):
            bits = _distances(rows, other[left : left + _OTHERS])
            for row in np.flatnonzero((bits <= NEAR_BITS).any(axis=1)).tolist():
                first = np.argsort(bits[row], kind="stable")[:CANDIDATES].tolist()
                near = [(int(bits[row, i]), left + i) for i in first if bits[row, i] <= NEAR_BITS]
                nearest[row] = sorted(nearest[row] + near)[:CANDIDATES]
        yield from nearest


def _distances(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The least number of bits that differ between the whole of one and a crop of the other.

    uint8 [own, other].
    """
    pairs = [(own[:, :1], other[:, crop]) for crop in range(len(CROPS))]
    pairs += [(own[:, crop : crop + 1], other[:, 0]) for crop in range(1, len(CROPS))]
    bits = np.full((len(own), len(other)), 64, np.uint8)
    for ours, theirs in pairs:
        np.minimum(bits, np.bitwise_count(ours ^ theirs[None]), out=bits)
    return bits
