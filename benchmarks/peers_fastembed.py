"""Adapter: fastembed, its two CLIP models with the measured weights in the place of OpenAI's.

It takes image files only, so "image" decodes uncompressed bitmaps of 224x224, a copy.
"""

from __future__ import annotations

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("fastembed", "onnxruntime")


def open(setup: Setup) -> dict[str, Action]:
    """`options["graph"]` is the folder that holds one folder a tower, as fastembed has them."""
    from fastembed import ImageEmbedding, TextEmbedding

    folder = f"{setup.options['graph']}/{setup.side}"
    if setup.side == "image":
        images = ImageEmbedding(
            "Qdrant/clip-ViT-B-32-vision", threads=setup.threads, specific_model_path=folder
        )

        def embed(paths: list[str], batch: int) -> np.ndarray:
            return np.stack(list(images.embed(paths, batch_size=batch)))

        return {
            "image": lambda inputs: embed(inputs.bitmaps, inputs.batch),
            "jpeg": lambda inputs: embed(inputs.jpegs, inputs.batch),
        }
    texts = TextEmbedding(
        "Qdrant/clip-ViT-B-32-text", threads=setup.threads, specific_model_path=folder
    )

    def tokenise(inputs: Inputs) -> list[object]:
        return [texts.model.tokenize(part) for part in chunks(inputs.texts, inputs.batch)]

    def text(inputs: Inputs) -> np.ndarray:
        return np.stack(list(texts.embed(inputs.texts, batch_size=inputs.batch)))

    return {"text": text, "tokenise": tokenise}
