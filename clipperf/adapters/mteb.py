"""An exported model as one of MTEB, whose tasks on images are MIEB's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.errors import MissingDependencyError
from clipperf.serve.load import load
from clipperf.serve.model import ClipModel
from clipperf.system import extras
from clipperf.system.store import MANIFEST_NAME, read_manifest
from clipperf.system.targets import expanded


class MtebModel:
    """An encoder as mteb 2 takes them (`mteb.models.EncoderProtocol`); rows are not normalised.

    Similarity is the cosine. Inputs with an image and a text are the sum of both embeddings, as of
    mteb's own models of open_clip.
    """

    def __init__(
        self, model_name: str, revision: str | None, *, model: ClipModel, **kwargs: Any
    ) -> None:
        self.model = model
        self.mteb_model_meta = _meta(model_name, revision, model)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed batches of "image", "text" or both: float32 [n, embed_dim]."""
        parts = [self._batch(batch) for batch in inputs]
        return np.concatenate(parts) if parts else np.zeros((0, self.model.embed_dim), np.float32)

    def _batch(self, batch: Mapping[str, Any]) -> np.ndarray:
        found = []
        if "text" in batch:
            found.append(self.model.encode_texts(list(batch["text"])))
        if "image" in batch:
            found.append(self.model.encode_images(list(batch["image"])))
        if not found:
            kinds = ", ".join(batch)
            raise ValueError(f"a CLIP embeds batches of image and text, not of {kinds}")
        total: np.ndarray = sum(found[1:], found[0])
        return total

    def get_text_embeddings(self, texts: Iterable[Mapping[str, Any]], **kwargs: Any) -> np.ndarray:
        """Embed the texts of batches."""
        return self.encode({"text": batch["text"]} for batch in texts)

    def get_image_embeddings(
        self, images: Iterable[Mapping[str, Any]], **kwargs: Any
    ) -> np.ndarray:
        """Embed the images of batches."""
        return self.encode({"image": batch["image"]} for batch in images)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines [n, m], a tensor."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines [n] of pairs, a tensor."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def as_mteb(
    folder: str | Path | ClipModel, *, name: str | None = None, **options: Any
) -> MtebModel:
    """A model for `mteb.evaluate`.

    `folder` and `options` are those of `clipperf.load`, or a model that it has opened. `name` is
    what results go under, by default clipperf/MODEL-RUNTIME-PRECISION.

    Raises:
        MissingDependencyError: mteb is not installed; and whatever `clipperf.load` raises.
    """
    try:
        import mteb  # noqa: F401
    except ImportError as exc:
        raise MissingDependencyError(
            f"MTEB's tasks take the package mteb: {extras.bring('mteb')}"
        ) from exc
    if isinstance(folder, ClipModel):
        return MtebModel(name or "clipperf/model", None, model=folder)
    known, revision = _described(expanded(folder))
    return MtebModel(name or f"clipperf/{known}", revision, model=load(folder, **options))


def _described(folder: Path) -> tuple[str, str | None]:
    """What an artifact is called, and the key of its first tower; a tuning by its file's name."""
    if not (folder / MANIFEST_NAME).is_file():
        return _plain(folder.name), None
    manifest = read_manifest(folder)
    name = f"{manifest.spec.id}-{manifest.runtime}-{manifest.precision}"
    return _plain(name), manifest.towers[0].key


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _meta(name: str, revision: str | None, model: ClipModel) -> Any:
    """What mteb writes beside results."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    return ModelMeta.create_empty(
        {
            "name": name,
            "revision": revision,
            "modalities": ["image", "text"],
            "embed_dim": model.embed_dim,
            "similarity_fn_name": ScoringFunction.COSINE,
        }
    )
