"""Accuracy of runtimes on a dataset, beside a baseline on the same samples.

A runtime shows up here as an `Embedder`; what is scored are its embeddings. All runtimes get the
same images and texts in the same batches, so that a difference comes from the runtime alone.
Embedding (slow, one runtime at a time) and scoring (fast, all runtimes) stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, cast

import numpy as np

from clipperf.errors import EngineError, UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.kept import NOWHERE, Shelf
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import normalize
from clipperf.evals.task import Embeddings, nothing_to_score, outcomes_of, texts_of
from clipperf.evals.verdicts import MARGIN, samples_needed
from clipperf.inputs.sources import ImageSource
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Score
from clipperf.nouns.variant import Side
from clipperf.serve.model import ClipModel
from clipperf.system.files import digest_of

BATCH = 32

Progress = Callable[[str, int, int], None]
"""Called with what is being embedded ("images", "captions", "prompts"), done, and total."""


class Embedder(Protocol):
    """A loaded model that embeds both sides. Rows need not be normalised."""

    def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
        """Decode, preprocess and embed: float32 [len(images), embed_dim]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Tokenise and embed: float32 [len(texts), embed_dim]."""
        ...


class FeatureEmbedder(Embedder, Protocol):
    """One that gives features of images, too."""

    def encode_features(self, images: Sequence[ImageSource]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings [len(images), embed_dim] and features [len(images), width], float32."""
        ...


class ModelEmbedder:
    """A model that takes a dataset's image sources, and runs `batch` inputs at once."""

    def __init__(self, model: ClipModel, batch: int = BATCH) -> None:
        self._model = model
        self._batch = batch

    def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
        """See `Embedder`."""
        return self._model.encode_images([i.open() for i in images], batch_size=self._batch)

    def encode_features(self, images: Sequence[ImageSource]) -> tuple[np.ndarray, np.ndarray]:
        """See `FeatureEmbedder`."""
        return self._model.encode_features([i.open() for i in images], batch_size=self._batch)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embedder`."""
        return self._model.encode_texts(texts, batch_size=self._batch)


def embed(
    dataset: Dataset,
    embedder: Embedder | FeatureEmbedder,
    batch: int = BATCH,
    progress: Progress | None = None,
    who: str = "the runtime",
    shelf: Shelf = NOWHERE,
    features_from: int | None = None,
) -> Embeddings:
    """Embed a dataset's images, and the texts that its tasks need, in batches of `batch`.

    Equal texts are embedded once, and handed over by the thousand; the embedder runs them in
    batches. Images are handed over as sources, a batch at a time: no more than one batch of them
    needs to be decoded at once. What `shelf` keeps is not embedded again,
    and it keeps what is. With `features_from`, the width of an embedding, images have features
    behind it; see `FeatureEmbedder`.

    Raises:
        EngineError: `who` returned another shape than asked for, or a vector that is not finite
            or has no direction.
        UsageError: an image cannot be decoded, or `batch` is below 1.
    """

    def run(side: Side, what: str, items: Sequence) -> np.ndarray:
        encode: Callable[[Sequence], np.ndarray]
        encode = embedder.encode_images if side == "image" else embedder.encode_texts
        finish: Callable[[np.ndarray], np.ndarray] = normalize
        if side == "image" and features_from is not None:
            encode, finish = partial(_with_features, cast(FeatureEmbedder, embedder)), _finite
        parts = []
        length = shelf.part(side, batch)
        for start in range(0, len(items), length):
            part = items[start : start + length]
            found = shelf.get(side, part)
            if found is None:
                # Texts of a part all at once: equal lengths share batches, and are tokenised once.
                at_once = batch if side == "image" else max(batch, len(part))
                told = _after(start, len(items), progress)
                found = in_batches(encode, part, at_once, what, told, who, finish)
                shelf.put(side, part, found)
            elif progress is not None:
                progress(what, start + len(part), len(items))
            parts.append(found)
        if len({part.shape[1] for part in parts}) != 1:
            raise EngineError(f"{who}: {what} have embeddings of several widths")
        return np.concatenate(parts)

    rows = {"": run("image", "images", dataset.images)}
    for name, part in dataset.parts.items():
        rows[name] = run("image", f"{name} images", part.images)
    parts = {name: own[:, :features_from] for name, own in rows.items()}
    images = parts.pop("")
    features = {}
    if features_from is not None:
        features = {name: own[:, features_from:] for name, own in rows.items()}
    found = {}
    for what, texts in texts_of(dataset).items():
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        unique = run("text", what, list(place))
        if unique.shape[1] != images.shape[1]:
            raise EngineError(
                f"{who}: image embeddings have {images.shape[1]} values, "
                f"text embeddings {unique.shape[1]}"
            )
        found[what] = unique[[place[text] for text in texts]]
    return Embeddings(images, found, parts, features)


def _with_features(embedder: FeatureEmbedder, images: Sequence[ImageSource]) -> np.ndarray:
    """Unit vectors, with features as they are behind."""
    embeds, features = embedder.encode_features(images)
    return np.concatenate([normalize(embeds), features], axis=1)


def _finite(rows: np.ndarray) -> np.ndarray:
    if not np.isfinite(rows).all():
        raise ValueError("a feature holds NaN or infinity")
    return rows.astype(np.float32)


def _after(start: int, total: int, progress: Progress | None) -> Progress | None:
    """`progress` of a part that begins at `start`, told of all."""
    if progress is None:
        return None
    return lambda what, done, _: progress(what, start + done, total)


def in_batches(
    encode: Callable[[Sequence], np.ndarray],
    items: Sequence,
    batch: int,
    what: str = "inputs",
    progress: Progress | None = None,
    who: str = "the runtime",
    finish: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """Embed items [n, ...], `batch` at a time: float32 [n, embed_dim].

    `finish` is done to each batch's embeddings; a ValueError of it is the fault of `who`.

    Raises:
        EngineError, UsageError: see `embed`.
    """
    if batch < 1:
        raise UsageError(f"the batch must be at least 1, not {batch}")
    parts = []
    for start in range(0, len(items), batch):
        chunk = items[start : start + batch]
        part = np.asarray(encode(chunk))
        at = f"{who}: {what} {start} to {start + len(chunk) - 1}"
        if part.ndim != 2 or len(part) != len(chunk):
            raise EngineError(f"{at}: {len(chunk)} inputs gave shape {list(part.shape)}")
        try:
            parts.append(finish(part))
        except ValueError as exc:
            raise EngineError(f"{at}: {exc}") from exc
        if progress is not None:
            progress(what, start + len(chunk), len(items))
    if len({part.shape[1] for part in parts}) != 1:
        raise EngineError(f"{who}: {what} have embeddings of several widths")
    return np.concatenate(parts)


def score(
    dataset: Dataset,
    embeddings: Mapping[Cell, Embeddings],
    baseline: Cell | None,
    *,
    random_weights: bool = False,
    env_id: str = "",
    margin: float = MARGIN,
) -> list[Score]:
    """Score every runtime on every task that the dataset has data for.

    `baseline` is one of the keys of `embeddings`, or None for no comparison; its own rows have
    no baseline fields. Rows come per runtime in the order of the keys: "zeroshot top-1",
    "zeroshot top-5", "zeroshot mean per-class recall", "text-to-image recall@1", "@5", "@10",
    "image-to-text recall@1", "@5", "@10", then what other tasks and metrics give. A row that
    cannot miss (k at or above the number of candidates) is left out. The cell's side is the one
    that queries: "text" for text-to-image, else "image".

    - ``value``: share of hits, ties counted as misses (see `ranks`).
    - ``ci95``: Wilson's interval for means, of as many samples as these are worth (see `outcome`):
      captions of one image are not independent, and classes of few samples weigh most.
    - ``difference``, ``diff_ci95``: value minus baseline, and its interval over the same samples
      in pairs (`stats.paired_share_interval`), which has a width where no sample's hit changed.
    - ``mcnemar_p``: of the hits that changed, where samples are independent.
    - ``margin``, ``samples_needed``: see `verdicts`.
    - ``flips``: for top-1 and mean per-class recall, samples whose predicted class differs from
      the baseline's, right or wrong; for top-5 and recall@k, samples whose hit differs.
    - ``chance``: the expected value of guessing.

    Raises:
        UsageError: `baseline` is not among the keys, or no row is left.
    """
    outcomes = {cell: outcomes_of(dataset, found) for cell, found in embeddings.items()}
    return rows_of(
        dataset, outcomes, baseline, random_weights=random_weights, env_id=env_id, margin=margin
    )


def rows_of(
    dataset: Dataset,
    outcomes: Mapping[Cell, Sequence[Outcome]],
    baseline: Cell | None,
    *,
    random_weights: bool = False,
    env_id: str = "",
    margin: float = MARGIN,
) -> list[Score]:
    """The rows of `score`, of what every runtime's embeddings gave."""
    if baseline is not None and baseline not in outcomes:
        raise UsageError(f"the baseline {baseline.label} was not evaluated")
    if not any(outcomes.values()):
        raise nothing_to_score(dataset)
    scores = []
    before = {} if baseline is None else {o.metric: o for o in outcomes[baseline]}
    for cell, rows in outcomes.items():
        for outcome in rows:
            own = plain(cell, dataset, outcome, random_weights, env_id)
            if baseline is not None and cell != baseline:
                own = beside(own, outcome, before[outcome.metric], baseline.runtime, margin)
            scores.append(own)
    return scores


def plain(
    cell: Cell, dataset: Dataset, outcome: Outcome, random_weights: bool, env_id: str
) -> Score:
    """A cell's figure by itself; the cell's side is the one that queries."""
    return Score(
        cell=replace(cell, side=outcome.side, tokens=None),
        dataset=dataset.name,
        dataset_sha256=_evaluated(dataset, outcome),
        metric=outcome.metric,
        value=outcome.value,
        n=len(outcome.values),
        ci95=outcome.interval,
        chance=outcome.chance,
        random_weights=random_weights,
        env_id=env_id,
        detail=outcome.detail,
        group=outcome.group,
        aim=outcome.aim,
        hits=outcome.hits,
    )


def _evaluated(dataset: Dataset, outcome: Outcome) -> str:
    """What was evaluated: the data, and whether features of it are, which is something else."""
    return digest_of(dataset.sha256, "features") if outcome.features else dataset.sha256


def beside(own: Score, ours: Outcome, theirs: Outcome, runtime: str, margin: float) -> Score:
    """`own` with the comparison to the baseline's outcome on the same samples."""
    before, gap = theirs.value, ours.gap(theirs)
    return replace(
        own,
        baseline_runtime=runtime,
        baseline_value=before,
        difference=own.value - before,
        diff_ci95=gap.interval(),
        flips=ours.flips(theirs),
        mcnemar_p=ours.mcnemar_p(theirs),
        margin=margin,
        samples_needed=samples_needed(gap, own.n, margin, own.aim),
    )
