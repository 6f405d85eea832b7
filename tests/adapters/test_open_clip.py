"""CLIP_benchmark's own evaluations of exported towers, and our figures of the same embeddings."""

from __future__ import annotations

import importlib
import pickle
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipperf
from clipperf.adapters import as_open_clip
from clipperf.adapters.open_clip import OpenClipLike
from clipperf.errors import ArtifactError, MissingDependencyError, UsageError
from clipperf.evals import accuracy
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.ranks import normalize
from clipperf.evals.task import Embeddings
from clipperf.nouns.cell import Cell
from clipperf.serve.model import ClipModel

pytestmark = pytest.mark.usefixtures("clip_benchmark")

CELL = Cell("clipperf-sample", "image", "onnx", "fp32", "cpu", 32, 1)


class Recorded(OpenClipLike):
    """A model that keeps what it has embedded: int8 depends on what shares a batch."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__(model)
        self.images: list[Any] = []
        self.texts: list[Any] = []

    def encode_image(self, image: Any, normalize: bool = False) -> Any:
        self.images.append(super().encode_image(image, normalize))
        return self.images[-1]

    def encode_text(self, text: Any, normalize: bool = False) -> Any:
        self.texts.append(super().encode_text(text, normalize))
        return self.texts[-1]


def ours(data: Dataset, model: Recorded) -> dict[str, float]:
    """Our figures, by metric, of the very embeddings that CLIP_benchmark was given."""
    images, texts = (normalize(np.concatenate(found)) for found in (model.images, model.texts))
    found = Embeddings(images, {"captions" if data.captions else "prompts": texts})
    return {score.metric: score.value for score in accuracy.score(data, {CELL: found}, None)}


def theirs(root: Path, opened: Any, task: str, **options: Any) -> dict[str, float]:
    """CLIP_benchmark's, as its command line gets them of a WebDataset."""
    from clip_benchmark.datasets.builder import build_dataset
    from torch.utils.data import DataLoader

    model, transform, tokenizer = opened
    given = {"transform": transform, "split": "test", "task": task}
    data = build_dataset(f"wds/{root.name}", str(root), **given)
    loader = DataLoader(data.batched(16), batch_size=None)
    if task == "zeroshot_classification":
        options |= {"classnames": data.classes, "templates": data.templates}
    evaluate = importlib.import_module(f"clip_benchmark.metrics.{task}").evaluate
    found: dict[str, float] = evaluate(model, loader, tokenizer, device="cpu", **options)
    return found


@pytest.fixture
def opened(artifact: Path) -> Iterator[tuple[Recorded, Any, Any]]:
    """A model, its transform and its tokenizer."""
    with clipperf.load(artifact) as model:
        _, transform, tokenizer = as_open_clip(model)
        yield Recorded(model), transform, tokenizer


def test_classification_as_clip_benchmark(opened: Any, classes: Path) -> None:
    data = load_dataset(classes)
    expected = theirs(classes, opened, "zeroshot_classification", amp=False)
    found = ours(data, opened[0])
    assert len(data.images) == 80 and len(data.class_names) == 8
    for metric, name in (
        ("acc1", "zeroshot top-1"),
        ("acc5", "zeroshot top-5"),
        ("mean_per_class_recall", "zeroshot mean per-class recall"),
    ):
        assert found[name] == pytest.approx(expected[metric], abs=1e-6), metric
    assert found["zeroshot top-1"] > 0.4  # of drawings that it was trained on, not chance


def test_equal_scores_count_against_the_model_here_alone(
    sample_artifact: Path, classes: Path, tmp_path: Path
) -> None:
    """Two classes of one name are told apart by their index: whose image it is cannot be said."""
    twice = tmp_path / "twice"
    shutil.copytree(classes, twice)
    names = (twice / "classnames.txt").read_text().splitlines()
    (twice / "classnames.txt").write_text("\n".join([*names[:-1], names[0]]) + "\n")
    data = load_dataset(twice)
    with clipperf.load(sample_artifact) as model:
        _, transform, tokenizer = as_open_clip(model)
        opened = Recorded(model), transform, tokenizer
        expected = theirs(twice, opened, "zeroshot_classification", amp=False)
        found = ours(data, opened[0])
    # Theirs takes the first of two, or whichever rounding prefers.
    both = sum(label in (0, 7) for label in data.labels) / len(data.labels)
    assert 0 < expected["acc1"] - found["zeroshot top-1"] <= both


def test_retrieval_as_clip_benchmark(opened: Any, captions: Path) -> None:
    data, ks = load_dataset(captions), [1, 5, 10]
    asked = {"amp": False, "recall_k_list": ks}
    expected = theirs(captions, opened, "zeroshot_retrieval", **asked)
    found = ours(data, opened[0])
    assert (len(data.images), len(data.captions)) == (80, 160)
    for k in ks:
        pair = expected[f"image_retrieval_recall@{k}"], expected[f"text_retrieval_recall@{k}"]
        got = found[f"text-to-image recall@{k}"], found[f"image-to-text recall@{k}"]
        assert got == pytest.approx(pair, abs=1e-6), k
    assert 0.2 < found["text-to-image recall@1"] < 1


def test_several_classes_an_image_as_clip_benchmark(opened: Any, classes: Path) -> None:
    """All-point average precision."""
    import torch
    from clip_benchmark.metrics import zeroshot_classification
    from torch.utils.data import DataLoader
    from torch.utils.data import Dataset as Images

    model, transform, tokenizer = opened
    data = load_dataset(classes)
    sets = tuple(tuple(sorted({label, (label * 3 + i) % 8})) for i, label in enumerate(data.labels))
    data = replace(data, labels=(), label_sets=sets)

    class Several(Images):
        classes = data.class_names

        def __len__(self) -> int:
            return len(sets)

        def __getitem__(self, i: int) -> Any:
            target = torch.zeros(8, dtype=torch.long)
            target[list(sets[i])] = 1
            return transform(data.images[i].open()), target

    prompts = [list(data.class_names), list(data.templates)]
    expected = zeroshot_classification.evaluate(
        model, DataLoader(Several(), 16), tokenizer, *prompts, device="cpu", amp=False
    )
    found = ours(data, model)["zeroshot mAP"]
    assert found == pytest.approx(expected["mean_average_precision"], abs=1e-6)


def test_its_default_precision_rounds_products_alone(sample_artifact: Path, classes: Path) -> None:
    """Autocast is on: not in the towers, which are their own."""
    with clipperf.load(sample_artifact) as model:
        opened = as_open_clip(model)
        exact = theirs(classes, opened, "zeroshot_classification", amp=False)
        usual = theirs(classes, opened, "zeroshot_classification")
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
    with pytest.raises(MissingDependencyError, match=r"pip install .clipperf\[export\]"):
        as_open_clip(sample_artifact)
