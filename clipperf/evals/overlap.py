"""Near-duplicates between an evaluated dataset and another one, and what they do to its accuracy.

Appendix C of the CLIP paper. Embeddings alone are weak at finding them: they are semantic, so that
two photos of one kind lie closer than two copies of one photo resized in different ways. So
perceptual hashes come first (the signs of the lowest frequencies of a small grey copy: pHash), of
the whole image and of crops of it. What they find near is one image where small copies in colour
agree, or, where there are embeddings, these do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipperf import stats
from clipperf.errors import UsageError
from clipperf.evals.accuracy import BATCH, ModelEmbedder, in_batches
from clipperf.evals.datasets import Dataset
from clipperf.evals.ranks import hits_at, normalize
from clipperf.evals.task import Embeddings
from clipperf.evals.tasks import zeroshot
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import ImageSource, list_folder, list_zip
from clipperf.serve.model import ClipModel
from clipperf.system.targets import expanded, kind_of
from clipperf.text import shown

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

LEVEL = 0.995
"""Of the Clopper-Pearson intervals."""

_ROWS = 256


def signatures(images: Iterable[ImageSource]) -> np.ndarray:
    """Hashes uint64 [n, crops], the whole image's first."""
    found = np.array([signature(source.open()) for source in images], np.uint64)
    return found.reshape(-1, len(CROPS))


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

    `embedded` are the L2-normalised embeddings [n, dim] of both. A crop of one is compared with the
    whole of the other. Images are decoded one at a time; those that are near, once more.

    Raises:
        UsageError: an image cannot be read.
    """
    found = []
    for start, bits in _distances(signatures(own), signatures(other)):
        for row in np.flatnonzero((bits <= NEAR_BITS).any(axis=1)):
            at = int(start + row)
            nearest = np.argsort(bits[row], kind="stable")[:CANDIDATES]
            mine = colours(own[at].open())
            matches = []
            for there in nearest[bits[row, nearest] <= NEAR_BITS].tolist():
                theirs = colours(other[there].open())
                like = max(float((mine @ theirs[0]).max()), float((theirs @ mine[0]).max()))
                cosine = None if embedded is None else float(embedded[0][at] @ embedded[1][there])
                matches.append(Match(at, there, int(bits[row, there]), like, cosine))
            same = [match for match in matches if _same(match)]
            if same:
                found.append(max(same, key=lambda match: match.colour))
    return found


def _same(match: Match) -> bool:
    alike = match.cosine is not None and match.cosine >= LIKE_EMBEDDINGS
    return alike or match.colour >= LIKE_COLOURS


def _distances(own: np.ndarray, other: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Where rows begin, and the least number of bits [rows, others] that differ."""
    for start in range(0, len(own), _ROWS):
        part = own[start : start + _ROWS]
        pairs = [(part[:, :1], other[:, crop]) for crop in range(len(CROPS))]
        pairs += [(part[:, crop : crop + 1], other[:, 0]) for crop in range(1, len(CROPS))]
        bits = np.full((len(part), len(other)), 64, np.uint8)
        for ours, theirs in pairs:
            np.minimum(bits, np.bitwise_count(ours ^ theirs[None]), out=bits)
        yield start, bits


@dataclass(frozen=True)
class Share:
    """`hits` of `n` samples, and the Clopper-Pearson interval of their share at `LEVEL`."""

    hits: int
    n: int

    @property
    def accuracy(self) -> float | None:
        """Their share; None of no samples."""
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its interval; None of no samples."""
        return stats.clopper_pearson_interval(self.hits, self.n, LEVEL) if self.n else None


@dataclass(frozen=True)
class Overlap:
    """What the samples that overlap do to an accuracy: All, Overlap and Clean.

    `p` is the chance of at least so many hits among the overlap if they were as hard as the clean
    ones: the one-sided binomial test. None where one of both has no samples.
    """

    all: Share
    overlap: Share
    clean: Share
    p: float | None

    @property
    def gained(self) -> float | None:
        """All minus Clean: what the overlap adds to the accuracy."""
        if self.all.accuracy is None or self.clean.accuracy is None:
            return None
        return self.all.accuracy - self.clean.accuracy

    def significant(self, sets: int = 1, level: float = 0.05) -> bool:
        """Whether it is more than chance, where so many sets are tested (Bonferroni)."""
        return self.p is not None and self.p < level / sets


def overlap_of(hits: np.ndarray, overlapping: np.ndarray) -> Overlap:
    """Split hits, bool [n], by whether a sample has a near-duplicate, bool [n]."""
    parts = [hits, hits[overlapping], hits[~overlapping]]
    every, overlap, clean = (Share(int(part.sum()), len(part)) for part in parts)
    p = None
    if overlap.n and clean.accuracy is not None:
        # At least k hits are at most n - k misses.
        p = stats.binomial_at_most(overlap.n - overlap.hits, overlap.n, 1 - clean.accuracy)
    return Overlap(every, overlap, clean, p)


@dataclass(frozen=True)
class Looked:
    """What came of two sets: names of the pairs that are near-duplicates, of so many images.

    `accuracy` is that of the evaluated set, None without a model or without classes.
    """

    n: int
    pairs: tuple[tuple[str, str, Match], ...]
    accuracy: Overlap | None = None


def images_of(folder: str) -> list[ImageSource]:
    """All images in a folder or zip, whatever else it holds.

    Raises:
        UsageError: there are none.
    """
    path = expanded(folder)
    kind = kind_of(path)
    if kind == "nothing":
        raise UsageError(f"no folder or zip at {shown(path)}")
    files = list_folder(path) if kind == "folder" else list_zip(path)
    suffixes = image_suffixes()
    found = [source for name, source in files.items() if name.lower().endswith(tuple(suffixes))]
    if not found:
        raise UsageError(f"no images in {shown(path)}: looked for {', '.join(sorted(suffixes))}")
    return found


def looked_at(
    own: Sequence[ImageSource],
    other: Sequence[ImageSource],
    model: ClipModel | None = None,
    dataset: Dataset | None = None,
) -> Looked:
    """Look for near-duplicates of the images of `dataset` among others, with what a model says."""
    embedded, hits = None, None
    if model is not None:
        encode = ModelEmbedder(model).encode_images
        embedded = (
            in_batches(encode, own, BATCH, finish=normalize),
            in_batches(encode, other, BATCH, finish=normalize),
        )
        if dataset is not None and dataset.labels:
            texts = in_batches(ModelEmbedder(model).encode_texts, dataset.prompts, BATCH)
            prompts = {zeroshot.PROMPTS: normalize(texts)}
            alone = dataclasses.replace(dataset, clip="", groups=())  # image by image
            ranks = zeroshot.ranked(alone, Embeddings(embedded[0], prompts)).ranks
            hits = hits_at(ranks, 1)
    found = near_duplicates(own, other, embedded)
    pairs = tuple((own[each.own].name, other[each.other].name, each) for each in found)
    if hits is None:
        return Looked(len(own), pairs)
    overlapping = np.zeros(len(own), bool)
    overlapping[[each.own for each in found]] = True
    return Looked(len(own), pairs, overlap_of(hits, overlapping))
