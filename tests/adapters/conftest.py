"""The sample in three precisions, and small sets in CLIP_benchmark's layout."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from published_layouts import shards

from clipperf.evals.place import SAMPLE

TEMPLATES = "a photo of {c}.\na drawing of {c}.\n"


@pytest.fixture(scope="package", params=["fp32", "fp16", "int8"])
def artifact(request: pytest.FixtureRequest, sample_in: Callable[[str], Path]) -> Path:
    """The sample for ONNX Runtime in a precision."""
    return sample_in(request.param)


Drawing = tuple[bytes, str, str]
"""A PNG, its caption and its class."""


@pytest.fixture(scope="package")
def drawings() -> list[Drawing]:
    """80 drawings of the sample; in RGB, so that it does not matter when they are converted."""
    found = []
    with zipfile.ZipFile(SAMPLE) as archive:
        rows = [json.loads(row) for row in archive.read("captions.jsonl").decode().splitlines()]
        classes = json.loads(archive.read("classes.json"))
        names = dict(zip(classes["categories"], classes["class_names"], strict=True))
        for row in rows[::20]:
            found.append((archive.read(row["image"]), row["caption"], names[row["category"]]))
    return found


@pytest.fixture(scope="package")
def classes(drawings: list[Drawing], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings in their classes."""
    names = sorted({name for _, _, name in drawings})
    samples = [{"cls": str(names.index(c)).encode(), "png": data} for data, _, c in drawings]
    texts = {
        "classnames.txt": "\n".join(names) + "\n",
        "zeroshot_classification_templates.txt": TEMPLATES,
    }
    return shards(tmp_path_factory.mktemp("published") / "drawings", samples, texts, per_shard=40)


@pytest.fixture(scope="package")
def captions(drawings: list[Drawing], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings with two captions each."""
    samples = [
        {"txt": f"{caption}\nsomething like {caption}".encode(), "png": data}
        for data, caption, _ in drawings
    ]
    root = tmp_path_factory.mktemp("published") / "captioned"
    return shards(root, samples, {"dataset_type.txt": "retrieval\n"}, per_shard=40)
