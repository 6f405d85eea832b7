"""What a quantised tower loses on real samples: drift of its embeddings, retrieval, top-1."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals import metrics
from clipperf.evals.datasets import Dataset
from clipperf.inputs.tokenize import CONFIG_FILE, Tokenizer
from clipperf.nouns.cell import Engine
from clipperf.nouns.variant import PixelDtype, Side
from clipperf.serve.images import batches as image_batches
from clipperf.serve.opening import read_pixels
from clipperf.serve.texts import encode

BATCH = 32

PROBES = 64
"""Samples that calibrate the scales and show the drift of single layers, spread over the set."""


@dataclass(frozen=True)
class Loss:
    """How a quantised tower differs from its fp32 one on n samples.

    `points` is the largest loss of text-to-image and image-to-text recall@1 and zero-shot top-1,
    in percentage points, whichever the samples allow; None where the weights are random.
    """

    n: int
    min_cosine: float
    points: float | None

    def within(self, margin: float, min_cosine: float) -> bool:
        """Whether it loses at most `margin` points, and no embedding turns too far."""
        return self.min_cosine >= min_cosine and (self.points is None or self.points <= margin)


class Judge:
    """One tower's samples, its fp32 embeddings of them, and those of the other tower.

    `fp32` are the towers of `folder`, both where accuracy is to be judged, else this one alone;
    then only `PROBES` samples are looked at.
    """

    def __init__(
        self,
        side: Side,
        folder: Path,
        dataset: Dataset,
        fp32: dict[Side, Engine],
        cut: bool,
        pixel_dtype: PixelDtype,
    ) -> None:
        self._side = side
        self._pixel_dtype = pixel_dtype
        self._pixels = read_pixels(folder)
        self._tokenizer = Tokenizer.from_folder(folder) if _has_tokenizer(folder) else None
        self._dataset = dataset
        self._cut = cut
        texts = dict.fromkeys((*dataset.captions, *dataset.prompts))
        if side == "text" and not texts:
            raise UsageError(f"{dataset.name} holds no captions: choose another --calibrate")
        self._all_texts = tuple(texts)
        self._scored = len(fp32) == 2
        self._reference = {
            which: self._embed(which, engine, which != side or self._scored)
            for which, engine in fp32.items()
        }
        self.probes = self._probe_batches()
        self._expected = self._run(fp32[side])
        self._before = self._hits(self._reference[side]) if self._scored else {}

    def drift(self, engine: Engine) -> float:
        """1 minus the mean cosine between the tower's embeddings of the probes and fp32's."""
        return float(1 - _cosines(self._run(engine), self._expected).mean())

    def loss(self, engine: Engine) -> Loss:
        """What the tower loses on all samples."""
        found = self._embed(self._side, engine, self._scored)
        cosines = _cosines(found, self._reference[self._side])
        points = None
        if self._scored:
            after = self._hits(found)
            points = max(100 * float(self._before[k].mean() - after[k].mean()) for k in after)
        return Loss(len(found), float(cosines.min()), points)

    def _run(self, engine: Engine) -> np.ndarray:
        return np.concatenate([engine.run(batch) for batch in self.probes])

    def _embed(self, side: Side, engine: Engine, everything: bool) -> np.ndarray:
        """Embeddings of every image, or of every different text: float32 [n, dim]."""
        if side == "image":
            images = self._dataset.images if everything else _spread(self._dataset.images)
            chunks = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
            opened = ([image.open() for image in chunk] for chunk in chunks)
            pixels = itertools.chain.from_iterable(
                image_batches(chunk, self._pixels, BATCH, 0, self._pixel_dtype) for chunk in opened
            )
            return np.concatenate([engine.run(batch) for batch in pixels])
        texts = self._all_texts if everything else _spread(self._all_texts)
        if self._tokenizer is None:
            raise UsageError("this artifact has no tokenizer: export its text tower too")
        return encode(texts, self._tokenizer, engine, BATCH, self._cut)

    def _probe_batches(self) -> list[np.ndarray]:
        recorder = _Recorder()
        self._embed(self._side, recorder, False)
        return recorder.batches

    def _hits(self, own: np.ndarray) -> dict[str, np.ndarray]:
        """Per metric whether each sample is right, with `own` for this side's embeddings."""
        both = {**self._reference, self._side: own}
        images, texts = (metrics.normalize(both[side]) for side in ("image", "text"))
        place = {text: i for i, text in enumerate(self._all_texts)}
        data, hits = self._dataset, {}
        if data.captions and len(data.images) > 1:
            captions = texts[[place[text] for text in data.captions]]
            ranks = metrics.retrieve(images, captions, np.asarray(data.caption_image))
            hits["text-to-image"] = metrics.hits_at(ranks.text_to_image, 1)
            hits["image-to-text"] = metrics.hits_at(ranks.image_to_text, 1)
        if len(data.class_names) > 1:
            shape = (len(data.class_names), len(data.templates), -1)
            prompts = texts[[place[text] for text in data.prompts]].reshape(shape)
            weights = metrics.classifier_weights(prompts)
            ranks_of = metrics.classify(images, weights, np.asarray(data.labels)).ranks
            hits["top-1"] = metrics.hits_at(ranks_of, 1)
        if not hits:
            raise UsageError(
                f"{data.name}: nothing to score: it takes two classes, or two images with captions"
            )
        return hits


class _Recorder:
    """An engine that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    def run(self, array: np.ndarray) -> np.ndarray:
        self.batches.append(array)
        return np.zeros((len(array), 1), np.float32)

    def close(self) -> None:
        """Nothing is held."""


def _has_tokenizer(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists()


def _spread(items: Sequence) -> Sequence:
    return items[:: max(1, len(items) // PROBES)][:PROBES]


def _cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The cosine of each row with its counterpart; rows that are not finite count as opposite."""
    ours, theirs = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines: np.ndarray = np.einsum("ij,ij->i", ours, theirs) / lengths
    return np.where(np.isfinite(cosines), cosines, -1.0)
