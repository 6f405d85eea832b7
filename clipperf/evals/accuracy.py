"""Zero-shot and retrieval accuracy of runtimes, beside a baseline on the same samples.

A runtime shows up here as an `Embedder`; what is scored are its embeddings. All runtimes get the
same images and texts in the same batches, so that a difference comes from the runtime alone.
Embedding (slow, one runtime at a time) and scoring (fast, all runtimes) stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from clipperf import stats
from clipperf.errors import EngineError, UsageError
from clipperf.evals import metrics
from clipperf.evals.datasets import Dataset
from clipperf.inputs.sources import ImageSource
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Score
from clipperf.nouns.variant import Side

CLASSIFICATION_K = (1, 5)
RETRIEVAL_K = (1, 5, 10)

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


@dataclass(frozen=True)
class Embeddings:
    """A dataset as one runtime sees it, all L2-normalised float32.

    `images` [images, dim]; `captions` [captions, dim] and `prompts` [classes, templates, dim]
    are None where the dataset has none.
    """

    images: np.ndarray
    captions: np.ndarray | None
    prompts: np.ndarray | None


@dataclass(frozen=True)
class _Outcome:
    """One metric's result per sample, for one runtime.

    `hits` bool [n] gives the value, `decisions` [n] the flips. `groups` int [n] holds each
    sample's class or image; what it is for depends on `estimate`.
    """

    metric: str
    side: Side
    estimate: Literal["share", "share of groups", "mean over classes"]
    hits: np.ndarray
    decisions: np.ndarray
    groups: np.ndarray
    chance: float


def evaluate(
    dataset: Dataset,
    embedders: Mapping[Cell, Embedder],
    baseline: Cell | None,
    *,
    batch: int = 32,
    progress: Progress | None = None,
    random_weights: bool = False,
    env_id: str = "",
) -> list[Score]:
    """Embed the dataset with every runtime, then score them all: `embed`, then `score`.

    The keys say which model, runtime, precision, device and threads an embedder stands for; their
    side, batch and tokens are replaced. To hold only one model in memory at a time, call `embed`
    and `score` yourself.
    """
    embedded = {
        replace(cell, batch=batch): embed(dataset, embedder, batch, progress, cell.label)
        for cell, embedder in embedders.items()
    }
    against = None if baseline is None else replace(baseline, batch=batch)
    return score(dataset, embedded, against, random_weights=random_weights, env_id=env_id)


def embed(
    dataset: Dataset,
    embedder: Embedder,
    batch: int = 32,
    progress: Progress | None = None,
    who: str = "the runtime",
) -> Embeddings:
    """Embed a dataset's images, captions and prompts in batches of `batch`.

    Equal texts are embedded once. Images are handed over as sources, a batch at a time: no more
    than one batch of them needs to be decoded at once.

    Raises:
        EngineError: `who` returned another shape than asked for, or a vector that is not finite
            or has no direction.
        UsageError: an image cannot be decoded, or `batch` is below 1.
    """
    if batch < 1:
        raise UsageError(f"the batch must be at least 1, not {batch}")

    def run(what: str, encode: Callable[[Sequence], np.ndarray], items: Sequence) -> np.ndarray:
        parts = []
        for start in range(0, len(items), batch):
            chunk = items[start : start + batch]
            part = np.asarray(encode(chunk))
            at = f"{who}: {what} {start} to {start + len(chunk) - 1}"
            if part.ndim != 2 or len(part) != len(chunk):
                raise EngineError(f"{at}: {len(chunk)} inputs gave shape {list(part.shape)}")
            try:
                parts.append(metrics.normalize(part))
            except ValueError as exc:
                raise EngineError(f"{at}: {exc}") from exc
            if progress is not None:
                progress(what, start + len(chunk), len(items))
        if len({part.shape[1] for part in parts}) != 1:
            raise EngineError(f"{who}: {what} have embeddings of several widths")
        return np.concatenate(parts)

    def run_texts(what: str, texts: tuple[str, ...]) -> np.ndarray:
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        return run(what, embedder.encode_texts, list(place))[[place[text] for text in texts]]

    images = run("images", embedder.encode_images, dataset.images)
    captions = run_texts("captions", dataset.captions) if dataset.captions else None
    prompts = None
    if dataset.labels:
        shape = (len(dataset.class_names), len(dataset.templates), -1)
        prompts = run_texts("prompts", dataset.prompts).reshape(shape)
    for texts in (captions, prompts):
        if texts is not None and texts.shape[-1] != images.shape[-1]:
            raise EngineError(
                f"{who}: image embeddings have {images.shape[-1]} values, "
                f"text embeddings {texts.shape[-1]}"
            )
    return Embeddings(images, captions, prompts)


def score(
    dataset: Dataset,
    embeddings: Mapping[Cell, Embeddings],
    baseline: Cell | None,
    *,
    random_weights: bool = False,
    env_id: str = "",
) -> list[Score]:
    """Score every runtime on every task that the dataset has data for.

    `baseline` is one of the keys of `embeddings`, or None for no comparison; its own rows have
    no baseline fields. Rows come per runtime in the order of the keys: "zeroshot top-1",
    "zeroshot top-5", "zeroshot mean per-class recall", "text-to-image recall@1", "@5", "@10",
    "image-to-text recall@1", "@5", "@10". A row that cannot miss (k at or above the number of
    candidates) is left out. The cell's side is the one that queries: "text" for text-to-image,
    else "image".

    - ``value``: share of hits, ties counted as misses (see `metrics`).
    - ``ci95``: Wilson's interval for shares. Captions of one image are not independent, so with
      several an image text-to-image shares get a bootstrap over images; mean per-class recall
      gets a bootstrap over samples. Where all samples agree there is nothing to resample, and
      Wilson's interval over the images stands in.
    - ``difference``, ``diff_ci95``: value minus baseline, and its bootstrap interval over the
      same samples in pairs; exactly (0, 0) where no sample's hit changed.
    - ``flips``: for top-1 and mean per-class recall, samples whose predicted class differs from
      the baseline's, right or wrong; for top-5 and recall@k, samples whose hit differs.
    - ``chance``: the expected value of guessing.

    Raises:
        UsageError: `baseline` is not among the keys, or no row is left.
    """
    if baseline is not None and baseline not in embeddings:
        raise UsageError(f"the baseline {baseline.label} was not evaluated")
    outcomes = {cell: _outcomes(dataset, found) for cell, found in embeddings.items()}
    if not any(outcomes.values()):
        raise UsageError(
            f"nothing to score in {dataset.name}: it takes two classes, or two images with captions"
        )
    scores = []
    for cell, rows in outcomes.items():
        for i, outcome in enumerate(rows):
            own = Score(
                cell=replace(cell, side=outcome.side, tokens=None),
                dataset=dataset.name,
                dataset_sha256=dataset.sha256,
                metric=outcome.metric,
                value=_value(outcome),
                n=len(outcome.hits),
                ci95=_interval(outcome),
                chance=outcome.chance,
                random_weights=random_weights,
                env_id=env_id,
            )
            if baseline is not None and cell != baseline:
                own = _beside(own, outcome, outcomes[baseline][i], baseline.runtime)
            scores.append(own)
    return scores


def _outcomes(dataset: Dataset, found: Embeddings) -> list[_Outcome]:
    """Every metric that the dataset has data for, in the order of the rows."""
    rows = []
    if found.prompts is not None:
        rows += _classification(np.asarray(dataset.labels), found.images, found.prompts)
    if found.captions is not None:
        rows += _retrieval(np.asarray(dataset.caption_image), found.images, found.captions)
    return rows


def _classification(labels: np.ndarray, images: np.ndarray, prompts: np.ndarray) -> list[_Outcome]:
    classes = len(prompts)
    result = metrics.classify(images, metrics.classifier_weights(prompts), labels)
    rows = []
    for k in CLASSIFICATION_K:
        if k < classes:
            hits = metrics.hits_at(result.ranks, k)
            decisions = result.predicted if k == 1 else hits
            name = f"zeroshot top-{k}"
            rows.append(_Outcome(name, "image", "share", hits, decisions, labels, k / classes))
    if classes > 1:
        hits = metrics.hits_at(result.ranks, 1)
        name = "zeroshot mean per-class recall"
        rest = (hits, result.predicted, labels, 1 / classes)
        rows.append(_Outcome(name, "image", "mean over classes", *rest))
    return rows


def _retrieval(owner: np.ndarray, images: np.ndarray, captions: np.ndarray) -> list[_Outcome]:
    result = metrics.retrieve(images, captions, owner)
    per_image = np.bincount(owner, minlength=len(images))
    several = per_image.max() > 1
    rows = []
    for k in RETRIEVAL_K:
        if k < len(images):
            hits = metrics.hits_at(result.text_to_image, k)
            rest = (hits, hits, owner, k / len(images))
            estimate: Literal["share", "share of groups"] = (
                "share of groups" if several else "share"
            )
            rows.append(_Outcome(f"text-to-image recall@{k}", "text", estimate, *rest))
    for k in RETRIEVAL_K:
        chance = metrics.chance_any_in_top(k, len(captions), per_image)
        if chance < 1:
            hits = metrics.hits_at(result.image_to_text, k)
            rest = (hits, hits, np.arange(len(images)), chance)
            rows.append(_Outcome(f"image-to-text recall@{k}", "image", "share", *rest))
    return rows


def _value(outcome: _Outcome) -> float:
    if outcome.estimate == "mean over classes":
        return metrics.mean_per_class(outcome.hits.astype(np.float64), outcome.groups)
    return float(outcome.hits.mean())


def _interval(outcome: _Outcome) -> tuple[float, float]:
    """The 95 % interval of an outcome's value; see `score`."""
    if outcome.estimate == "share":
        return stats.wilson_interval(int(outcome.hits.sum()), len(outcome.hits))
    interval = _resampled(outcome, outcome.hits.astype(np.float64))
    if interval[0] < interval[1]:
        return interval
    # No doubt at all would be too good to be true of few samples. Classes are no clusters.
    classes = outcome.estimate == "mean over classes"
    n = len(outcome.hits) if classes else len(np.unique(outcome.groups))
    return stats.wilson_interval(round(_value(outcome) * n), n)


def _resampled(outcome: _Outcome, values: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval of the estimate over `values`: hits, or paired differences of them."""
    if outcome.estimate == "mean over classes":
        return metrics.mean_per_class_interval(values, outcome.groups)
    if outcome.estimate == "share of groups":
        return metrics.grouped_mean_interval(values, outcome.groups)
    return stats.paired_difference_interval(values.tolist(), [0.0] * len(values))


def _beside(own: Score, ours: _Outcome, theirs: _Outcome, runtime: str) -> Score:
    """`own` with the comparison to the baseline's outcome on the same samples."""
    before = _value(theirs)
    gaps = ours.hits.astype(np.float64) - theirs.hits.astype(np.float64)
    return replace(
        own,
        baseline_runtime=runtime,
        baseline_value=before,
        difference=own.value - before,
        diff_ci95=_resampled(ours, gaps) if gaps.any() else (0.0, 0.0),
        flips=int((ours.decisions != theirs.decisions).sum()),
    )
