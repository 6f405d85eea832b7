"""Accuracy with fake embedders of known geometry, a plain second implementation, and open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipperf import stats
from clipperf.errors import EngineError, UsageError
from clipperf.evals.accuracy import embed, score
from clipperf.evals.datasets import Dataset
from clipperf.evals.outcome import SHARE_OF_GROUPS, Outcome
from clipperf.evals.ranks import classifier_weights
from clipperf.inputs.sources import ImageSource
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Score

TORCH = Cell("tiny", "image", "torch", "fp32", "cpu", 1, 1)
ONNX = replace(TORCH, runtime="onnx", tokens=77)


class Table:
    """An embedder that looks vectors up by image name or text and remembers its calls."""

    def __init__(self, vectors: dict[str, Sequence[float]]) -> None:
        self.vectors = vectors
        self.calls: list[list[str]] = []

    def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
        return self.encode_texts([image.name for image in images])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)


def sources(names: Sequence[str]) -> tuple[ImageSource, ...]:
    return tuple(ImageSource(name, Path(name)) for name in names)


def evaluate(
    data: Dataset,
    tables: dict[Cell, Table],
    baseline: Cell | None,
    batch: int = 32,
    random_weights: bool = False,
    env_id: str = "",
) -> list[Score]:
    """Embed with every table, then score them all; the cells get the batch."""
    embedded = {
        replace(cell, batch=batch): embed(data, table, batch, who=cell.label)
        for cell, table in tables.items()
    }
    against = None if baseline is None else replace(baseline, batch=batch)
    return score(data, embedded, against, random_weights=random_weights, env_id=env_id)


def by_metric(scores: list[Score], cell: Cell) -> dict[str, Score]:
    return {s.metric: s for s in scores if s.cell.runtime == cell.runtime}


# Three classes on the axes; seven images. In `BASE` images 4, 5 and 6 are wrong.
CLASSES = {"a cat": (9, 0, 0), "a dog": (0, 1, 0), "a fox": (0, 0, 2)}
BASE = {
    "0": (5, 1, 0),  # cat
    "1": (4, 1, 0),  # cat
    "2": (0, 3, 1),  # dog
    "3": (0, 1, 4),  # fox
    "4": (0, 2, 1),  # fox, taken for a dog
    "5": (1, 0, 3),  # cat, taken for a fox
    "6": (1, 3, 2),  # cat, taken for a dog
}
LABELS = (0, 0, 1, 2, 2, 0, 0)
CLASSIFIED = Dataset(
    "pets",
    "abc",
    sources(list(BASE)),
    labels=LABELS,
    class_names=("cat", "dog", "fox"),
    templates=("a {}",),
)


def test_classification_scores_by_hand() -> None:
    # 1 turns wrong (cat to dog), 4 turns right, 6 stays wrong but from dog to fox.
    moved = {**BASE, "1": (1, 4, 0), "4": (0, 1, 2), "6": (1, 2, 3)}
    embedders = {TORCH: Table({**BASE, **CLASSES}), ONNX: Table({**moved, **CLASSES})}
    scores = evaluate(CLASSIFIED, embedders, TORCH, batch=4, env_id="here", random_weights=True)
    base, ours = by_metric(scores, TORCH), by_metric(scores, ONNX)
    # Top-5 cannot miss with three classes, so it has no row.
    assert list(base) == ["zeroshot top-1", "zeroshot mean per-class recall"]

    top = base["zeroshot top-1"]
    assert top.value == pytest.approx(4 / 7)
    assert top.ci95 == pytest.approx(stats.wilson_interval(4, 7))
    assert top.n == 7 and top.chance == pytest.approx(1 / 3)
    assert (top.baseline_runtime, top.baseline_value, top.difference) == (None, None, None)
    assert (top.diff_ci95, top.flips) == (None, None)
    assert top.cell == replace(TORCH, batch=4)
    assert (top.dataset, top.dataset_sha256, top.env_id) == ("pets", "abc", "here")
    assert top.random_weights

    recall = base["zeroshot mean per-class recall"]
    assert recall.value == pytest.approx((2 / 4 + 1 + 1 / 2) / 3)
    assert recall.ci95[0] < recall.value < recall.ci95[1]

    top = ours["zeroshot top-1"]
    assert top.value == pytest.approx(4 / 7)
    assert top.baseline_runtime == "torch" and top.baseline_value == pytest.approx(4 / 7)
    assert top.difference == pytest.approx(0)
    assert top.flips == 3
    # One of seven gained and one lost; a coin tossed twice says nothing.
    assert top.diff_ci95 == pytest.approx(stats.paired_share_interval(1, 1, 7))
    assert top.mcnemar_p == 1 and top.margin == 0.01
    assert top.cell == replace(ONNX, batch=4, tokens=None)

    recall = ours["zeroshot mean per-class recall"]
    assert recall.value == pytest.approx((1 / 4 + 1 + 1) / 3)
    assert recall.difference == pytest.approx((-1 / 4 + 1 / 2) / 3)
    assert recall.flips == 3
    assert recall.diff_ci95 is not None
    assert recall.diff_ci95[0] < recall.difference < recall.diff_ci95[1]


def test_same_embeddings_differ_in_nothing() -> None:
    # Only the lengths differ, and lengths must not matter.
    longer = {name: tuple(7 * v for v in vector) for name, vector in BASE.items()}
    embedders = {TORCH: Table({**BASE, **CLASSES}), ONNX: Table({**longer, **CLASSES})}
    top, recall = by_metric(evaluate(CLASSIFIED, embedders, TORCH), ONNX).values()
    for own in (top, recall):
        assert (own.difference, own.flips, own.mcnemar_p) == (0, 0, 1)
    # Seven samples miss what 41 % of all do, but for 2.5 %: 1 - 0.025^(1/7). To exclude a point
    # takes 368 of them: 0.99^368 is below 2.5 %.
    assert top.diff_ci95 == pytest.approx((-0.40962, 0.40962), abs=1e-5)
    assert top.samples_needed == 370
    assert recall.diff_ci95 is not None and recall.diff_ci95[0] < -0.4


def test_no_interval_claims_certainty() -> None:
    right = {name: CLASSES[f"a {CLASSIFIED.class_names[LABELS[int(name)]]}"] for name in BASE}
    for own in evaluate(CLASSIFIED, {TORCH: Table({**right, **CLASSES})}, None):
        assert own.value == 1
        # Classes of 4, 1 and 2 samples are worth 9 / (1/4 + 1 + 1/2).
        worth = 7 if own.metric == "zeroshot top-1" else 9 / 1.75
        assert own.ci95 == pytest.approx(stats.wilson_interval(worth, worth))


def test_top_5_counts_changed_hits_not_changed_classes() -> None:
    names = [f"c{i}" for i in range(7)]
    data = Dataset(
        "d", "", sources("xy"), labels=(0, 1), class_names=tuple(names), templates=("{}",)
    )
    axes = {name: np.eye(7)[i] for i, name in enumerate(names)}
    base = {"x": (7, 6, 5, 4, 3, 2, 1), "y": (7, 6, 5, 4, 3, 2, 1)}
    ours = {"x": (6, 7, 5, 4, 3, 2, 1), "y": (7, 1, 5, 4, 3, 2, 6)}  # y: rank 1 becomes 6
    found = evaluate(data, {TORCH: Table({**base, **axes}), ONNX: Table({**ours, **axes})}, TORCH)
    top1, top5 = (by_metric(found, ONNX)[f"zeroshot top-{k}"] for k in (1, 5))
    assert (top1.baseline_value, top1.value, top1.flips) == (0.5, 0.0, 1)
    assert (top5.baseline_value, top5.value, top5.flips) == (1.0, 0.5, 1)
    assert top5.chance == pytest.approx(5 / 7)


def test_templates_are_averaged_per_class() -> None:
    # "A dog" alone points the wrong way; only the average with "one dog" is right for image y.
    data = Dataset(
        "d",
        "",
        sources("xy"),
        labels=(0, 1),
        class_names=("cat", "dog"),
        templates=("a {}", "one {}"),
    )
    table = Table(
        {"x": (1, 0.2), "y": (0.3, 1), "a cat": (50, 0), "one cat": (1, 0)}
        | {"a dog": (30, 0), "one dog": (0, 1)}
    )
    top = evaluate(data, {TORCH: table}, None)[0]
    assert top.value == 1.0
    assert ["a cat", "one cat", "a dog", "one dog"] in table.calls


RETRIEVED = Dataset(
    "photos",
    "def",
    sources("xyz"),
    captions=("x1", "x2", "y1", "z1", "z1"),
    caption_image=(0, 0, 1, 2, 2),
)
PHOTOS = {
    "x": (1, 0, 0),
    "y": (0, 1, 0),
    "z": (0, 0, 1),
    "x1": (5, 1, 0),
    "x2": (1, 5, 0),  # y is better
    "y1": (1, 3, 2),
    "z1": (4, 3, 5),
}


def test_retrieval_scores_by_hand() -> None:
    ours = {**PHOTOS, "x2": (5, 1, 1)}
    embedders = {TORCH: Table(PHOTOS), ONNX: Table(ours)}
    scores = evaluate(RETRIEVED, embedders, TORCH)
    base, onnx = by_metric(scores, TORCH), by_metric(scores, ONNX)
    # Three images: recall@5 and @10 cannot miss; of five captions, @5 cannot.
    assert list(base) == ["text-to-image recall@1", "image-to-text recall@1"]
    to_image, to_text = base.values()
    assert to_image.value == pytest.approx(4 / 5) and to_image.n == 5
    assert to_image.chance == pytest.approx(1 / 3)
    assert to_image.cell.side == "text" and to_text.cell.side == "image"
    # y: x2 points at it more than y1 does.
    assert to_text.value == pytest.approx(2 / 3) and to_text.n == 3
    assert to_text.chance == pytest.approx((2 / 5 + 1 / 5 + 2 / 5) / 3)
    assert to_text.ci95 == pytest.approx(stats.wilson_interval(2, 3))

    to_image, to_text = onnx.values()
    assert (to_image.value, to_image.flips) == (1.0, 1)
    assert to_image.difference == pytest.approx(1 / 5)
    assert (to_text.value, to_text.flips) == (1.0, 1)
    # All captions right says no more than three images do.
    # 2, 1 and 2 captions are worth 25 / 9 images of as many.
    assert to_image.ci95 == pytest.approx(stats.wilson_interval(25 / 9, 25 / 9))
    assert to_image.mcnemar_p is None and to_text.mcnemar_p == 1


def test_equal_texts_are_embedded_once_and_in_batches() -> None:
    table, seen = Table(PHOTOS), []
    embed(RETRIEVED, table, batch=2, progress=lambda *args: seen.append(args))
    assert table.calls == [["x", "y"], ["z"], ["x1", "x2", "y1", "z1"]]
    images, captions = (
        [("images", 2, 3), ("images", 3, 3)],
        [("captions", 4, 4)],
    )
    assert seen == images + captions


def test_captions_of_one_image_are_not_independent() -> None:
    # 40 images of 5 captions that are right or wrong together: 40 samples, not 200.
    rng = np.random.default_rng(0)
    right = rng.random(40) < 0.5
    hits, owner = np.repeat(right, 5), np.repeat(np.arange(40), 5)
    rest = (hits, hits, owner, 0.1)
    low, high = Outcome("r@1", "text", SHARE_OF_GROUPS, *rest).interval
    alone = stats.wilson_interval(int(right.sum()), 40)
    assert high - low == pytest.approx(alone[1] - alone[0], rel=0.1)
    naive = stats.wilson_interval(int(hits.sum()), 200)
    assert high - low > 2 * (naive[1] - naive[0])


def test_one_caption_an_image_gets_wilson_both_ways() -> None:
    data = replace(RETRIEVED, captions=("x1", "y1", "z1"), caption_image=(0, 1, 2))
    scores = evaluate(data, {TORCH: Table(PHOTOS)}, None)
    assert [s.ci95 for s in scores] == [stats.wilson_interval(3, 3)] * 2


def test_both_tasks_against_a_plain_second_implementation() -> None:
    rng = np.random.default_rng(5)
    n, classes, dim = 60, 12, 6
    labels = rng.integers(0, classes, n)
    owner = np.concatenate([np.arange(n), rng.integers(0, n, 90)])
    names = [f"image {i}" for i in range(n)]
    captions = [f"caption {t}" for t in range(len(owner))]
    data = Dataset(
        "random",
        "",
        sources(names),
        tuple(captions),
        tuple(owner.tolist()),
        tuple(labels.tolist()),
        tuple(f"c{c}" for c in range(classes)),
        ("a {}", "b {}", "{}!"),
    )
    texts = [*names, *captions, *data.prompts]
    torch_table = {text: rng.standard_normal(dim) for text in texts}
    for caption, image in zip(captions, owner, strict=True):
        torch_table[caption] += 2 * torch_table[names[image]]
    onnx_table = {t: v + 0.4 * rng.standard_normal(dim) for t, v in torch_table.items()}
    scores = evaluate(data, {TORCH: Table(torch_table), ONNX: Table(onnx_table)}, TORCH)
    assert len(scores) == 18

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector / np.linalg.norm(vector)

    def expected(table: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        images = np.stack([unit(table[name]) for name in names])
        words = np.stack([unit(table[caption]) for caption in captions])
        weights = np.stack(
            [
                unit(sum(unit(table[t.replace("{}", c)]) for t in data.templates))
                for c in data.class_names
            ]
        )
        hits = {}
        best = np.argsort(-images @ weights.T, axis=1)
        for k in (1, 5):
            hits[f"zeroshot top-{k}"] = np.array([labels[i] in best[i, :k] for i in range(n)])
        for k in (1, 5, 10):
            near = np.argsort(-words @ images.T, axis=1)[:, :k]
            hits[f"text-to-image recall@{k}"] = (near == owner[:, None]).any(axis=1)
            near = np.argsort(-images @ words.T, axis=1)[:, :k]
            hits[f"image-to-text recall@{k}"] = (owner[near] == np.arange(n)[:, None]).any(axis=1)
        return hits, best[:, 0]

    (base, base_class), (ours, our_class) = expected(torch_table), expected(onnx_table)
    for cell, hits in ((TORCH, base), (ONNX, ours)):
        rows = by_metric(scores, cell)
        for metric, values in hits.items():
            assert rows[metric].value == pytest.approx(values.mean()), metric
            assert rows[metric].n == len(values)
        top = hits["zeroshot top-1"]
        recalls = [top[labels == c].mean() for c in range(classes) if (labels == c).any()]
        assert rows["zeroshot mean per-class recall"].value == pytest.approx(np.mean(recalls))
    for metric, row in by_metric(scores, ONNX).items():
        if "top-1" in metric or "per-class" in metric:
            assert row.flips == (base_class != our_class).sum()
        else:
            assert row.flips == (base[metric] != ours[metric]).sum()
        assert row.difference == pytest.approx(row.value - (row.baseline_value or 0))
        assert row.diff_ci95 is not None
        assert row.diff_ci95[0] <= row.difference <= row.diff_ci95[1]
        assert row.ci95[0] < row.value < row.ci95[1]
    again = evaluate(data, {TORCH: Table(torch_table), ONNX: Table(onnx_table)}, TORCH)
    assert again == scores


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ({"y": (np.nan, 0, 0)}, r"onnx.*images 0 to 2: an embedding holds NaN"),
        ({"z1": (0, 0, 0)}, r"onnx.*captions 0 to 3: an embedding is all zeros"),
    ],
)
def test_useless_embeddings_are_an_error_of_the_engine(vectors: dict, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        evaluate(RETRIEVED, {ONNX: Table({**PHOTOS, **vectors})}, None)


def test_wrong_shapes_are_an_error_of_the_engine() -> None:
    class Short(Table):
        def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
            return super().encode_texts(texts)[:2]

    class Flat(Table):
        def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
            return super().encode_images(images)[:, :2] + 1

    class Uneven(Table):
        def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
            return super().encode_images(images)[:, : len(images)]

    with pytest.raises(EngineError, match=r"images 0 to 2: 3 inputs gave shape \[2, 3\]"):
        embed(RETRIEVED, Short(PHOTOS))
    with pytest.raises(EngineError, match="image embeddings have 2 values, text embeddings 3"):
        embed(RETRIEVED, Flat(PHOTOS))
    odd = {**PHOTOS, "x": (1, 1, 1), "y": (1, 1, 1), "z": (1, 1, 1)}
    with pytest.raises(EngineError, match="several widths"):
        embed(RETRIEVED, Uneven(odd), batch=2)


def test_nothing_to_score_and_other_misuse() -> None:
    one = replace(CLASSIFIED, images=sources("0"), labels=(0,), class_names=("cat",))
    table = Table({**BASE, **CLASSES})
    with pytest.raises(UsageError, match="nothing to score in pets"):
        evaluate(one, {TORCH: table}, None)
    with pytest.raises(UsageError, match=r"baseline tiny image onnx .* was not evaluated"):
        evaluate(CLASSIFIED, {TORCH: table}, ONNX)
    with pytest.raises(UsageError, match="at least 1"):
        embed(CLASSIFIED, table, batch=0)


def test_embeddings_made_one_model_at_a_time_score_the_same() -> None:
    moved = {**BASE, "1": (1, 4, 0)}
    tables = {TORCH: Table({**BASE, **CLASSES}), ONNX: Table({**moved, **CLASSES})}
    apart = {cell: embed(CLASSIFIED, table) for cell, table in tables.items()}
    together = evaluate(CLASSIFIED, tables, TORCH, batch=1)
    assert score(CLASSIFIED, apart, TORCH)[2].difference == together[2].difference
    assert [s.value for s in score(CLASSIFIED, apart, TORCH)] == [s.value for s in together]


def test_classifier_matches_open_clip() -> None:
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    text = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    pixels = torch.randn(50, 3, 16, 16)
    class_names = ("cat", "big dog", "red fox", "owl", "newt", "carp", "moth", "elk")
    templates = ("a photo of a {}.", "{}", "the {} in a drawing, large")
    labels = np.arange(50) % 8
    names = [str(i) for i in range(50)]
    data = Dataset(
        "d",
        "",
        sources(names),
        labels=tuple(labels.tolist()),
        class_names=class_names,
        templates=templates,
    )

    class Tiny:
        def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
            with torch.no_grad():
                return model.encode_image(pixels[[int(i.name) for i in images]]).numpy()

        def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
            with torch.no_grad():
                return model.encode_text(tokenizer(list(texts))).numpy()

    theirs = open_clip.build_zero_shot_classifier(model, tokenizer, class_names, templates)
    found = embed(data, Tiny(), batch=16)
    ours = classifier_weights(found.texts["prompts"].reshape(8, 3, 16))
    np.testing.assert_allclose(ours, theirs.T.numpy(), atol=1e-6)
    with torch.no_grad():
        logits = model.encode_image(pixels, normalize=True) @ theirs
    best = logits.topk(5, dim=1).indices.numpy()
    scores = {s.metric: s.value for s in score(data, {TORCH: found}, None)}
    assert scores["zeroshot top-1"] == pytest.approx((best[:, 0] == labels).mean())
    assert scores["zeroshot top-5"] == pytest.approx((best == labels[:, None]).any(axis=1).mean())


def test_images_of_several_classes_have_average_precisions() -> None:
    data = Dataset(
        "d",
        "",
        sources("xyz"),
        label_sets=((0, 1), (1,), (0,)),
        class_names=("cat", "dog"),
        templates=("a {}",),
    )
    table = Table({"a cat": (1, 0), "a dog": (0, 1), "x": (3, 4), "y": (4, 3), "z": (0.1, 1)})
    found = by_metric(evaluate(data, {TORCH: table}, None), TORCH)
    # Cats: y, x, z, of which x and z are some: (1/2 + 2/3) / 2. Dogs: z, x, y: the same.
    assert list(found) == ["zeroshot mAP", "zeroshot 11-point mAP"]
    assert found["zeroshot mAP"].value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["zeroshot 11-point mAP"].value == pytest.approx(2 / 3)
    assert found["zeroshot mAP"].n == 3


def test_rare_metrics_are_rows_where_they_are_asked_for() -> None:
    data = replace(
        CLASSIFIED,
        labels=(0, 0, 1, 1, 1, 0, 0),
        class_names=("cat", "dog"),
        metrics=("ROC AUC", "macro F1"),
    )
    table = {TORCH: Table({**BASE, **CLASSES})}
    found = by_metric(evaluate(data, table, None), TORCH)
    assert list(found) == ["zeroshot macro F1", "zeroshot ROC AUC"]
    # The cosine of a dog less that of a cat: cats -0.78, -0.73, -0.32, 0.53; dogs 0.95, 0.24, 0.89.
    assert found["zeroshot ROC AUC"].value == pytest.approx(11 / 12)
    # Images 0, 1 and 5 are taken for cats, all of which are: 6/7; all dogs and one cat: 6/7.
    assert found["zeroshot macro F1"].value == pytest.approx(6 / 7)
