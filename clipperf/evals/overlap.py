"""What near-duplicates between an evaluated dataset and another one do to its accuracy.

Appendix C of the CLIP paper: All, Overlap and Clean. How they are found: see `evals.duplicates`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from clipperf.evals.layout import MissingSplitError, NoAnswersError
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


def evaluated_images(
    name: str, skip_unreadable: bool = False
) -> tuple[list[ImageSource], Dataset | None, list[str]]:
    """The images that `clipperf eval` would evaluate of a dataset, it, and what is to be said.

    All images there are, and no dataset, where it would find none: photos of which nothing says
    what is right, or no split for testing. It is the same with a model and without.

    Raises:
        UsageError: it holds a dataset that cannot be read, or no images.
    """
    try:
        data = load_dataset(name, skip_unreadable=skip_unreadable)
    except (NoAnswersError, MissingSplitError):
        found, notes = images_of(name, skip_unreadable)
        said = (
            f"{shown(name)}: nothing of it is a test with answers: all of its {len(found)} images"
        )
        return found, None, [f"{said} were looked at", *notes]
    return [*data.images], data, _of_dataset(data)


def images_of(name: str, skip_unreadable: bool = False) -> tuple[list[ImageSource], list[str]]:
    """All images in a folder, zip or tar, in tars inside of it too; and what is to be said of them.

    Of a TOML, and where images are no files of their own, those of the dataset that it is. With
    `skip_unreadable` each is decoded now, and those that cannot be are left out and named.

    Raises:
        UsageError: there are none, or none can be read.
    """
    path = expanded(name)
    kind = kind_of(path)
    if kind == "nothing":
        raise UsageError(f"no folder, zip or tar at {shown(path)}")
    found = [] if path.suffix == ".toml" else _image_files(path, kind == "folder")
    if not found:
        data = load_dataset(path, skip_unreadable=skip_unreadable)
        return [*data.images], _of_dataset(data)
    notes = [f"{shown(path)}: {note}" for note in left_outside(path)]
    if not skip_unreadable:
        return found, notes
    unreadable = read_all(found, skip=True)[1]
    if len(unreadable) == len(found):
        raise none_readable(path, unreadable)
    notes += [f"{shown(path)}: {skipped(unreadable)}"] if unreadable else []
    return [source for source in found if source.name not in unreadable], notes


def _of_dataset(data: Dataset) -> list[str]:
    said = f"{data.name}: the {len(data.images)} images that clipperf eval evaluates of it"
    return [f"{said} were looked at, and no others", *data.notes]


def _image_files(path: Path, folder: bool) -> list[ImageSource]:
    """The images in a folder, and in the tars that lie in it, or in an archive."""
    if not folder:
        files = list_tar(path) if path.suffix == ".tar" else list_zip(path)
    else:
        files = list_folder(path)
        for name, shard in [*files.items()]:
            if name.endswith(".tar"):
                inside = list_tar(shard.path)
                files |= {
                    f"{name}/{own}": dataclasses.replace(source, name=f"{name}/{own}")
                    for own, source in inside.items()
                }
    suffixes = tuple(image_suffixes())
    return [source for name, source in files.items() if name.lower().endswith(suffixes)]


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
