"""The child of an evaluation: one model in one fresh process embeds a dataset.

Run as ``python -m clipperf.evals.worker``; it speaks `system.protocol`. Its one operation,
"embed", opens a model, embeds, and leaves the embeddings in a file; see `evaluate.embed_apart`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines import contract
from clipperf.evals import accuracy
from clipperf.evals.datasets import Dataset
from clipperf.evals.kept import Shelf, identity_of, shared_tokenizer, tokenizer_sums
from clipperf.evals.task import Embeddings
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.sources import ImageSource
from clipperf.nouns.cell import EngineRequest
from clipperf.serialize import from_json, parse_json
from clipperf.serve.model import ClipModel
from clipperf.serve.towers import open_engines, read_pixels
from clipperf.system import files, store
from clipperf.system.protocol import Fields, Tell, serve


def embed(fields: Fields, tell: Tell) -> None:
    """Embed the dataset in file `dataset` with the `model`, and write the embeddings to `target`.

    Texts are tokenised once for all that have the folder of `target`. Tells what is being
    embedded, how many are done, and of how many.
    """
    path = Path(fields["dataset"])
    # However large: the parent has just written it.
    dataset = from_json(Dataset, parse_json(path.read_bytes(), path))
    request, batch = from_json(ModelRequest, fields["model"]), fields["batch"]
    target, label = Path(fields["target"]), request.towers[0].cell.label
    with open_model(request, target.parent) as model:
        embedder = accuracy.ModelEmbedder(model, batch)
        found = accuracy.embed(
            dataset,
            embedder,
            batch,
            lambda *done: tell(done),
            label,
            shelf_of(request),
            request.features_from,
        )
    save(found, target)


class Absent(Exception):
    """Something is not kept, so that it takes the model."""


class _Nothing:
    """An embedder that has no model."""

    def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
        """See `accuracy.Embedder`."""
        raise Absent

    def encode_features(self, images: Sequence[ImageSource]) -> tuple[np.ndarray, np.ndarray]:
        """See `accuracy.FeatureEmbedder`."""
        raise Absent

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See `accuracy.Embedder`."""
        raise Absent


def kept_embeddings(request: ModelRequest, dataset: Dataset, batch: int) -> Embeddings | None:
    """What the store keeps of a model's embeddings; None where anything is missing."""
    try:
        shelf, width = shelf_of(request), request.features_from
        return accuracy.embed(dataset, _Nothing(), batch, shelf=shelf, features_from=width)
    except Absent:
        return None


def shelf_of(request: ModelRequest) -> Shelf:
    """Where a model's embeddings are kept."""
    pixels, sums = read_preprocessing(request), tokenizer_sums(request.folder)
    found = {
        t.cell.side: identity_of(t, request.folder, pixels, sums, request.features)
        for t in request.towers
    }
    return Shelf({side: identity for side, identity in found.items() if identity is not None})


@dataclasses.dataclass(frozen=True)
class ModelRequest:
    """What opens both towers of a model for one cell, as an `EngineRequest` does for one.

    `folder` is the artifact folder whose tokenizer and preprocessing it has. A runtime that loads
    no artifacts, as the baseline's, borrows those of another's, and preprocesses exactly. With
    `features` images are embedded with these behind; the folder was exported with them, too.
    """

    folder: Path
    towers: tuple[EngineRequest, ...]
    features: bool = False

    @property
    def features_from(self) -> int | None:
        """Where features begin in a row: behind the embedding; None without them."""
        return self.towers[0].spec.embed_dim if self.features else None


def read_preprocessing(request: ModelRequest) -> PreprocessSpec:
    """How the model preprocesses images, read from its folder."""
    found = read_pixels(request.folder)
    if contract.get(request.towers[0].cell.runtime).artifact is None:
        return dataclasses.replace(found, method="exact")
    return found


def open_model(request: ModelRequest, shared: Path | None = None) -> ClipModel:
    """Open all towers; close the model after use. Tokens of texts are `shared` in a folder.

    Raises:
        ClipperfError: one cannot be opened; those before it are closed.
    """
    spec, image = request.towers[0].spec, store.read_manifest(request.folder).tower("image")
    pixels, tokenizer = read_preprocessing(request), shared_tokenizer(request.folder, shared)
    return ClipModel(
        open_engines(request.towers),
        pixels,
        tokenizer,
        embed_dim=spec.embed_dim,
        cut=store.read_manifest(request.folder).cut_at,
        random_weights=spec.random_weights,
        pixel_dtype=request.towers[0].cell.input,
        features=image.features if image is not None and request.features else None,
    )


def save(found: Embeddings, path: Path) -> None:
    """Write embeddings to a file of numpy's (.npz)."""
    arrays: dict[str, Any] = {
        **{_TEXTS + name: value for name, value in found.texts.items()},
        **{_PARTS + name: value for name, value in found.parts.items()},
        **{_FEATURES + name: value for name, value in found.features.items()},
    }
    with files.translated(path):
        np.savez(path, images=found.images, **arrays)


def load(path: Path) -> Embeddings:
    """Read what `save` wrote."""
    with np.load(path) as stored:
        arrays = dict(stored)
    images = arrays.pop("images")
    texts, parts, features = (
        {name.removeprefix(kind): v for name, v in arrays.items() if name.startswith(kind)}
        for kind in (_TEXTS, _PARTS, _FEATURES)
    )
    return Embeddings(images, texts, parts, features)


_TEXTS, _PARTS, _FEATURES = "texts of ", "images of ", "features of "


if __name__ == "__main__":
    sys.exit(serve({"embed": embed}))
