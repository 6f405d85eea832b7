"""What near-duplicates between an evaluated dataset and another one do to its accuracy.

Appendix C of the CLIP paper: All, Overlap and Clean. How they are found: see `evals.duplicates`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipperf import stats
from clipperf.errors import UsageError
from clipperf.evals.accuracy import BATCH, ModelEmbedder, in_batches
from clipperf.evals.datasets import (
    Dataset,
    left_outside,
    load_dataset,
    none_readable,
    read_all,
    skipped,
)
from clipperf.evals.duplicates import Match, near_duplicates
from clipperf.evals.layout import NoAnswersError
from clipperf.evals.ranks import hits_at, normalize
from clipperf.evals.task import Embeddings
from clipperf.evals.tasks import zeroshot
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import ImageSource, list_folder, list_tar, list_zip
from clipperf.serve.model import ClipModel
from clipperf.system.targets import expanded, kind_of
from clipperf.text import shown

LEVEL = 0.995
"""Of the Clopper-Pearson intervals."""


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

    `accuracy` is that of the evaluated set, None without a model or without classes. `notes` say
    what of both was left out.
    """

    n: int
    pairs: tuple[tuple[str, str, Match], ...]
    accuracy: Overlap | None = None
    notes: tuple[str, ...] = ()


def images_of(folder: str, skip_unreadable: bool = False) -> tuple[list[ImageSource], list[str]]:
    """All images in a folder, zip or tar, whatever else it holds; and what is to be said of them.

    With `skip_unreadable` each is decoded now, and those that cannot be are left out and named.

    Raises:
        UsageError: there are none, or none can be read.
    """
    path = expanded(folder)
    kind = kind_of(path)
    if kind == "nothing":
        raise UsageError(f"no folder, zip or tar at {shown(path)}")
    packed = list_tar if path.suffix == ".tar" else list_zip
    files = list_folder(path) if kind == "folder" else packed(path)
    suffixes = image_suffixes()
    found = [source for name, source in files.items() if name.lower().endswith(tuple(suffixes))]
    if not found:
        raise UsageError(f"no images in {shown(path)}: looked for {', '.join(sorted(suffixes))}")
    notes = [f"{shown(path)}: {note}" for note in left_outside(path)]
    if not skip_unreadable:
        return found, notes
    unreadable = read_all(found, skip=True)[1]
    if len(unreadable) == len(found):
        raise none_readable(path, unreadable)
    notes += [f"{shown(path)}: {skipped(unreadable)}"] if unreadable else []
    return [source for source in found if source.name not in unreadable], notes


def with_classes(folder: str, skip_unreadable: bool = False) -> Dataset | None:
    """The dataset in a folder; None where these are photos of which nothing says what is right.

    Raises:
        UsageError: it holds a dataset that cannot be read.
    """
    try:
        return load_dataset(folder, skip_unreadable=skip_unreadable)
    except NoAnswersError:
        return None


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
        if dataset is not None and dataset.labels and len(dataset.class_names) > 1:
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
