"""What a quantised tower loses on real samples: drift of its embeddings, retrieval, top-1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipperf.drift import drift_of
from clipperf.errors import NotFiniteError, UsageError
from clipperf.evals.accuracy import BATCH, ModelEmbedder, in_batches
from clipperf.evals.datasets import Dataset
from clipperf.evals.metric import Ranked
from clipperf.evals.outcome import ALONE, GROUPED, MeanGap
from clipperf.evals.ranks import hits_at, normalize
from clipperf.evals.task import Embeddings, nothing_to_score
from clipperf.evals.tasks import retrieval, zeroshot
from clipperf.inputs.tokenize import CONFIG_FILE, Tokenizer
from clipperf.nouns.artifact import CutAt
from clipperf.nouns.cell import Engine
from clipperf.nouns.variant import SIDES, PixelDtype, Side
from clipperf.serve.model import ClipModel
from clipperf.serve.towers import read_pixels

PROBES = 64
"""Samples that calibrate the scales, spread over the set."""

ROUGHLY = 4
"""The drift of single layers, which are only compared, is shown by one probe in so many."""


@dataclass(frozen=True)
class Loss:
    """How a quantised tower differs from its fp32 one on n samples.

    `gaps` are the differences of text-to-image and image-to-text recall@1 and zero-shot top-1,
    whichever the samples allow; none where the weights are random, or an embedding is not finite.
    """

    n: int
    min_cosine: float
    gaps: tuple[MeanGap, ...] = ()

    @property
    def points(self) -> float | None:
        """The largest loss on these samples, in percentage points."""
        return max((100 * (gap.lost - gap.gained) for gap in self.gaps), default=None)

    @property
    def points_at_most(self) -> float | None:
        """What it may be at most for all that so many samples tell: the largest 97.5 % bound."""
        return max((-100 * gap.interval()[0] for gap in self.gaps), default=None)

    def within(self, margin: float, min_cosine: float) -> bool:
        """Whether no embedding turns too far, and no loss may be larger than the margin allows.

        The bound of a loss is compared, and with that of a tower that loses exactly `margin` points
        and gains nothing on as many samples: few of them cannot show that less is lost, so what is
        refused is a bound that lies higher, by more losses or by more doubt (many flips that
        happen to cancel out). The more samples, the closer the bound to the margin itself.
        """
        allowed = min(margin / 100, 1.0)
        return self.min_cosine >= min_cosine and all(
            gap.interval()[0] >= replace(gap, gained=0.0, lost=allowed).interval()[0] - 1e-12
            for gap in self.gaps
        )


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
        cut: CutAt | None,
        pixel_dtype: PixelDtype,
    ) -> None:
        self._side: Side = side
        self._pixel_dtype = pixel_dtype
        # Whatever the folder was set to since: its key knows nothing of that.
        self._pixels = replace(read_pixels(folder), method="exact")
        self._tokenizer = Tokenizer.from_folder(folder) if _has_tokenizer(folder) else None
        self._dataset = dataset
        self._cut = cut
        self._texts = tuple(dict.fromkeys((*dataset.captions, *dataset.prompts)))
        if side == "text" and not self._texts:
            raise UsageError(f"{dataset.name} holds no captions: choose another --calibrate")
        self._scored = len(fp32) == 2
        self._reference = {
            which: self._embed(which, engine, which != side or self._scored)
            for which, engine in fp32.items()
        }
        recorder = Recorder()
        self._embed(side, recorder, False)
        self.probes = recorder.batches
        self.few = [batch[::ROUGHLY] for batch in self.probes]
        self._expected = self._run(fp32[side])
        self._before = self._ranked(self._reference[side]) if self._scored else []

    def drift(self, engine: Engine) -> float:
        """1 minus the mean cosine between the tower's embeddings of a few probes and fp32's."""
        return 1 - drift_of(self._run(engine), self._expected).mean_cosine

    def loss(self, engine: Engine) -> Loss:
        """What the tower loses on all samples."""
        try:
            embedded = self._embed(self._side, engine, self._scored)
        except NotFiniteError:
            return Loss(len(self._reference[self._side]), 0.0)
        found = drift_of(embedded, self._reference[self._side])
        if not self._scored:
            return Loss(len(embedded), found.min_cosine)
        pairs = zip(self._ranked(embedded), self._before, strict=True)
        gaps = tuple(_gap(after, before) for after, before in pairs)
        return Loss(len(embedded), found.min_cosine, gaps)

    def _run(self, engine: Engine) -> np.ndarray:
        return np.concatenate([engine.run(batch) for batch in self.few])

    def _embed(self, side: Side, engine: Engine, everything: bool) -> np.ndarray:
        """Embeddings of every image, or of every different text: float32 [n, dim]."""
        if side == "text" and self._tokenizer is None:
            raise UsageError("this artifact has no tokenizer: export its text tower too")
        model = ClipModel(
            {side: engine},
            self._pixels,
            self._tokenizer,
            embed_dim=0,  # that of no inputs, which there never are
            cut=self._cut,
            pixel_dtype=self._pixel_dtype,
        )
        embedder = ModelEmbedder(model)
        if side == "image":
            images = self._dataset.images if everything else _spread(self._dataset.images)
            return in_batches(embedder.encode_images, images, BATCH)
        # All at once: texts of like length share batches.
        texts = self._texts if everything else _spread(self._texts)
        return in_batches(embedder.encode_texts, texts, len(texts))

    def _ranked(self, own: np.ndarray) -> list[Ranked]:
        """Where each sample ranks what is right for it, with `own` for this side's embeddings."""
        both = {**self._reference, self._side: own}
        images, texts = (normalize(both[side]) for side in SIDES)
        data, place = self._dataset, {text: i for i, text in enumerate(self._texts)}
        wanted = {retrieval.CAPTIONS: data.captions, zeroshot.PROMPTS: data.prompts}
        found = Embeddings(
            images, {name: texts[[place[t] for t in those]] for name, those in wanted.items()}
        )
        # clipperf's own tasks by name: what is installed beside it must not change artifacts.
        ranked: list[Ranked] = []
        if data.captions and len(images) > 1:
            ranked += retrieval.ranked(data, found)
        if data.labels and len(data.class_names) > 1:
            ranked.append(zeroshot.ranked(data, found))
        if not ranked:
            raise nothing_to_score(data)
        return ranked


class Recorder:
    """An engine that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    def run(self, array: np.ndarray) -> np.ndarray:
        self.batches.append(array)
        return np.zeros((len(array), 1), np.float32)

    def close(self) -> None:
        """Nothing is held."""


def _gap(after: Ranked, before: Ranked) -> MeanGap:
    """The difference of the hits at 1, as `metrics` have it."""
    design = GROUPED if after.clustered else ALONE
    return design.gap(hits_at(after.ranks, 1), hits_at(before.ranks, 1), after.groups)


def _has_tokenizer(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists()


def _spread(items: Sequence) -> Sequence:
    return items[:: max(1, len(items) // PROBES)][:PROBES]
