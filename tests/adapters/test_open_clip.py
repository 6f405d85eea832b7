"""CLIP_benchmark's own evaluations of exported towers, and our figures of the same embeddings."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipperf
from clipperf.adapters import as_open_clip
from clipperf.errors import ArtifactError, MissingDependencyError, UsageError
from clipperf.evals import accuracy
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.nouns.cell import Cell
from clipperf.serve.model import ClipModel

pytest.importorskip("clip_benchmark", reason="the package clip-benchmark is not installed")

CELL = Cell("clipperf-sample", "image", "onnx", "fp32", "cpu", 32, 1)


def ours(data: Dataset, model: ClipModel) -> dict[str, float]:
    """Our figures by metric."""
    found = accuracy.embed(data, accuracy.ModelEmbedder(model))
    return {score.metric: score.value for score in accuracy.score(data, {CELL: found}, None)}


def theirs(root: Path, adapted: Any, task: str, **options: Any) -> dict[str, float]:
    """CLIP_benchmark's, as its command line gets them of a WebDataset."""
    from clip_benchmark import metrics
    from clip_benchmark.datasets.builder import build_dataset
    from torch.utils.data import DataLoader

    model, transform, tokenizer = adapted
    data = build_dataset(f"wds/{root.name}", str(root), transform=transform, split="test")
    loader = DataLoader(data.batched(16), batch_size=None)
    if task == "zeroshot_classification":
        options |= {"classnames": data.classes, "templates": data.templates}
    evaluate = getattr(metrics, task).evaluate
    found: dict[str, float] = evaluate(model, loader, tokenizer, device="cpu", **options)
    return found


def test_classification_as_clip_benchmark(artifact: Path, classes: Path) -> None:
    data = load_dataset(classes)
    with clipperf.load(artifact) as model:
        expected = theirs(classes, as_open_clip(model), "zeroshot_classification", amp=False)
        found = ours(data, model)
    assert len(data.images) == 80 and len(data.class_names) == 8
    for metric, name in (
        ("acc1", "zeroshot top-1"),
        ("acc5", "zeroshot top-5"),
        ("mean_per_class_recall", "zeroshot mean per-class recall"),
    ):
        assert found[name] == pytest.approx(expected[metric], abs=1e-6), metric
    assert found["zeroshot top-1"] > 0.4  # of drawings that it was trained on, not chance


def test_retrieval_as_clip_benchmark(artifact: Path, captions: Path) -> None:
    data, ks = load_dataset(captions), [1, 5, 10]
    with clipperf.load(artifact) as model:
        adapted = as_open_clip(model)
        expected = theirs(captions, adapted, "zeroshot_retrieval", amp=False, recall_k_list=ks)
        found = ours(data, model)
    assert (len(data.images), len(data.captions)) == (80, 160)
    for k in ks:
        pair = expected[f"image_retrieval_recall@{k}"], expected[f"text_retrieval_recall@{k}"]
        got = found[f"text-to-image recall@{k}"], found[f"image-to-text recall@{k}"]
        assert got == pytest.approx(pair, abs=1e-6), k
    assert 0.2 < found["text-to-image recall@1"] < 1


def test_several_classes_an_image_as_clip_benchmark(artifact: Path, classes: Path) -> None:
    """All-point average precision."""
    import torch
    from clip_benchmark.metrics import zeroshot_classification
    from torch.utils.data import DataLoader
    from torch.utils.data import Dataset as Images

    data = load_dataset(classes)
    sets = tuple(tuple(sorted({label, (label * 3 + i) % 8})) for i, label in enumerate(data.labels))
    data = replace(data, labels=(), label_sets=sets)
    with clipperf.load(artifact) as model:
        adapted, transform, tokenizer = as_open_clip(model)

        class Several(Images):
            classes = data.class_names

            def __len__(self) -> int:
                return len(sets)

            def __getitem__(self, i: int) -> Any:
                target = torch.zeros(8, dtype=torch.long)
                target[list(sets[i])] = 1
                return transform(data.images[i].open()), target

        prompts = [list(data.class_names), [t for t in data.templates]]
        expected = zeroshot_classification.evaluate(
            adapted, DataLoader(Several(), 16), tokenizer, *prompts, device="cpu", amp=False
        )
        found = ours(data, model)
    assert found["zeroshot mAP"] == pytest.approx(expected["mean_average_precision"], abs=1e-6)


def test_what_its_default_precision_changes(sample_artifact: Path, classes: Path) -> None:
    """Autocast is on: not the towers, which are their own, but the product is bfloat16 then."""
    with clipperf.load(sample_artifact) as model:
        adapted = as_open_clip(model)
        exact = theirs(classes, adapted, "zeroshot_classification", amp=False)
        usual = theirs(classes, adapted, "zeroshot_classification")
    assert abs(usual["acc1"] - exact["acc1"]) <= 0.05


def test_pixels_tokens_and_embeddings_are_those_of_the_model(
    artifact: Path, drawings: list[tuple[bytes, str, str]]
) -> None:
    import io

    import torch

    images = [Image.open(io.BytesIO(data)) for data, _, _ in drawings[:5]]
    texts = [caption for _, caption, _ in drawings[:5]]
    with clipperf.load(artifact) as model:
        adapted, transform, tokenizer = as_open_clip(model)
        pixels = torch.stack([pickle.loads(pickle.dumps(transform))(image) for image in images])
        tokens = pickle.loads(pickle.dumps(tokenizer))(texts)
        assert tokens.dtype == torch.int64 and tokens.shape == (5, tokenizer.context_length)
        assert adapted.eval().to("cpu").requires_grad_(False) is adapted
        for found, expected in (
            (adapted.encode_image(pixels), model.encode_images(images)),
            (adapted.encode_image(pixels.double()), model.encode_images(images)),
            (adapted.encode_text(tokens), model.encode_texts(texts)),
        ):
            assert found.dtype == torch.float32 and found.device.type == "cpu"
            assert np.allclose(found.numpy(), expected, atol=1e-5)
        unit = adapted.encode_image(pixels, normalize=True).norm(dim=1)
        assert torch.allclose(unit, torch.ones(5), atol=1e-5)
        with pytest.raises(UsageError, match="encode_pixels was given float32"):
            adapted.encode_image(pixels[:, :, 1:])


def test_one_tower_is_not_enough(sample_artifact: Path) -> None:
    with clipperf.load(sample_artifact) as whole:
        engines = {"text": whole._engines["text"]}
        half = ClipModel(engines, None, whole.tokenizer, embed_dim=whole.embed_dim, cut=None)  # type: ignore[arg-type]
        with pytest.raises(ArtifactError, match="no image tower, and evaluations need both"):
            as_open_clip(half)


def test_torch_is_asked_for_where_it_is_missing(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match="pip install torch"):
        as_open_clip(sample_artifact)
