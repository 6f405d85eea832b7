"""MTEB's own evaluations of exported towers, and our figures of the same embeddings."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipperf
from clipperf.adapters import as_mteb
from clipperf.adapters.mteb import MtebModel
from clipperf.errors import MissingDependencyError
from clipperf.evals import accuracy
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.ranks import normalize
from clipperf.evals.task import Embeddings
from clipperf.nouns.cell import Cell
from clipperf.serve.model import ClipModel

pytest.importorskip("mteb", reason="the package mteb is not installed")

CELL = Cell("clipperf-sample", "image", "onnx", "fp32", "cpu", 32, 1)
DIGITS = 5e-6
"""MTEB rounds what it finds of a retrieval to five digits."""

ABOUT: dict[str, Any] = {
    "description": "Drawings.",
    "dataset": {"path": "NA", "revision": "NA"},
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "modalities": ["image", "text"],
    "reference": None,
    "date": None,
    "domains": None,
    "task_subtypes": None,
    "license": None,
    "annotations_creators": None,
    "dialect": None,
    "sample_creation": None,
    "bibtex_citation": None,
}


def images_of(data: Dataset) -> list[Image.Image]:
    return [image.open() for image in data.images]


def classification(data: Dataset) -> Any:
    """A task of MTEB's on the first prompt of each class."""
    from datasets import Dataset as Table
    from datasets import DatasetDict
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    class Drawings(AbsTaskZeroShotClassification):
        metadata = TaskMetadata(
            name="Drawings", type="ZeroShotClassification", main_score="accuracy", **ABOUT
        )
        metadata.category = "i2t"

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            table = Table.from_dict({"image": images_of(data), "label": list(data.labels)})
            self.dataset = DatasetDict({"test": table})
            self.data_loaded = True

        def get_candidate_labels(self) -> list[str]:
            return [prompts[0] for prompts in data.prompt_sets]

    return Drawings()


def retrieval(data: Dataset, of: str) -> Any:
    """A task of MTEB's: texts of images ("i2t"), or images of texts ("t2i")."""
    from datasets import Dataset as Table
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    places = [f"i{i}" for i in range(len(data.images))]
    names = [f"t{i}" for i in range(len(data.captions))]
    images = Table.from_dict({"id": places, "image": images_of(data)})
    texts = Table.from_dict({"id": names, "text": list(data.captions)})
    right: dict[str, dict[str, int]] = {}
    for name, image in zip(names, data.caption_image, strict=True):
        pair = (places[image], name) if of == "i2t" else (name, places[image])
        right.setdefault(pair[0], {})[pair[1]] = 1
    queries, corpus = (images, texts) if of == "i2t" else (texts, images)

    class Pairs(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Drawings{of}", type="Any2AnyRetrieval", main_score="ndcg_at_10", **ABOUT
        )
        metadata.category = of  # type: ignore[assignment]

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            split = RetrievalSplitData(
                queries=queries, corpus=corpus, relevant_docs=right, top_ranked=None
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Pairs()


def evaluated(model: Any, task: Any) -> dict[str, float]:
    import mteb

    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    scores: dict[str, float] = found.task_results[0].scores["test"][0]
    return scores


class Recorded(MtebModel):
    """A model that keeps what it has embedded: int8 depends on what shares a batch."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__("clipperf/recorded", None, model=model)
        self.images: list[np.ndarray] = []
        self.texts: dict[str, np.ndarray] = {}

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        parts = []
        for batch in inputs:
            parts.append(super().encode([batch], **options))
            if "text" in batch:
                self.texts |= dict(zip(batch["text"], parts[-1], strict=True))
            else:
                self.images.append(parts[-1])
        return np.concatenate(parts)


def ours(data: Dataset, model: Recorded) -> dict[str, float]:
    """Our figures, by metric, of the very embeddings that MTEB was given."""
    name, texts = ("captions", data.captions) if data.captions else ("prompts", data.prompts)
    embedded = normalize(np.stack([model.texts[text] for text in texts]))
    found = Embeddings(normalize(np.concatenate(model.images)), {name: embedded})
    return {score.metric: score.value for score in accuracy.score(data, {CELL: found}, None)}


def test_classification_as_mteb(artifact: Path, classes: Path) -> None:
    data = load_dataset(classes)
    data = replace(
        data, templates=data.templates[:1], metrics=("top-1", "mean per-class recall", "macro F1")
    )
    with clipperf.load(artifact) as model:
        recorded = Recorded(model)
        expected = evaluated(recorded, classification(data))
    found = ours(data, recorded)
    for metric, name in (
        ("accuracy", "zeroshot top-1"),
        ("recall", "zeroshot mean per-class recall"),
        ("f1", "zeroshot macro F1"),
    ):
        assert found[name] == pytest.approx(expected[metric], abs=1e-6), metric


@pytest.mark.parametrize(("of", "name"), [("t2i", "text-to-image"), ("i2t", "image-to-text")])
def test_retrieval_as_mteb(artifact: Path, captions: Path, of: str, name: str) -> None:
    data = load_dataset(captions)
    with clipperf.load(artifact) as model:
        recorded = Recorded(model)
        expected = evaluated(recorded, retrieval(data, of))
    found = ours(data, recorded)
    for k in (1, 5, 10):
        got = found[f"{name} recall@{k}"]
        assert got == pytest.approx(expected[f"hit_rate_at_{k}"], abs=DIGITS), k
        if of == "t2i":
            assert got == pytest.approx(expected[f"recall_at_{k}"], abs=DIGITS), k
    if of == "i2t":  # its recall is the share of an image's two captions: one of them at most
        assert expected["recall_at_1"] == pytest.approx(
            found["image-to-text recall@1"] / 2, abs=DIGITS
        )


def test_it_is_one_of_mtebs_encoders(sample_artifact: Path, drawings: list[Any]) -> None:
    from mteb.models import EncoderProtocol

    adapted = as_mteb(sample_artifact, threads=1)
    images = [Image.open(io.BytesIO(data)) for data, _, _ in drawings[:3]]
    texts = [caption for _, caption, _ in drawings[:3]]
    assert isinstance(adapted, EncoderProtocol)
    assert adapted.mteb_model_meta.name == "clipperf/clipperf-sample-onnx-fp32"
    assert adapted.mteb_model_meta.embed_dim == adapted.model.embed_dim
    assert as_mteb(adapted.model, name="a/b").mteb_model_meta.name == "a/b"
    of_texts = adapted.encode([{"text": texts[:2]}, {"text": texts[2:]}])
    of_images = adapted.get_image_embeddings([{"image": images, "text": texts}])
    assert np.allclose(of_texts, adapted.model.encode_texts(texts), atol=1e-5)
    assert np.allclose(of_images, adapted.model.encode_images(images), atol=1e-5)
    assert np.allclose(of_texts, adapted.get_text_embeddings([{"text": texts}]), atol=1e-5)
    both = adapted.encode([{"image": images, "text": texts}])
    assert np.allclose(both, of_images + of_texts, atol=1e-5)
    assert adapted.encode([]).shape == (0, adapted.model.embed_dim)
    cosines = adapted.similarity(of_texts, of_images).numpy()
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (of_texts, of_images)]
    assert np.allclose(cosines, unit[0] @ unit[1].T, atol=1e-6)
    pairs = adapted.similarity_pairwise(of_texts, of_images).numpy()
    assert np.allclose(pairs, np.diag(cosines), atol=1e-6)
    with pytest.raises(ValueError, match="not of audio"):
        adapted.encode([{"audio": [1]}])
    adapted.model.close()


def test_mteb_is_asked_for_where_it_is_missing(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'clipperf\[adapters\]'"):
        as_mteb(sample_artifact)
