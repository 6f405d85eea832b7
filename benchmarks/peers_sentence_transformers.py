"""Adapter: sentence-transformers over a transformers CLIP, both towers in the process."""

from __future__ import annotations

from typing import Any

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("sentence-transformers", "transformers", "torch")


def open(setup: Setup) -> dict[str, Action]:
    """`encode` for strings and files; pixels go to the model's own forward."""
    import torch
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(setup.threads)
    model = SentenceTransformer(str(setup.folder / "transformers"), device="cpu")

    def encode(items: list[Any], batch: int) -> np.ndarray:
        return np.asarray(model.encode(items, batch_size=batch, show_progress_bar=False))

    def image(inputs: Inputs) -> np.ndarray:
        features: Any = {"pixel_values": torch.from_numpy(inputs.pixels), "modality": "image"}
        with torch.inference_mode():
            return model.forward(features)["sentence_embedding"].numpy()

    def jpeg(inputs: Inputs) -> np.ndarray:
        return encode([Image.open(path) for path in inputs.jpegs], inputs.batch)

    def tokenise(inputs: Inputs) -> list[Any]:
        return [model.preprocess(part) for part in chunks(inputs.texts, inputs.batch)]

    def text(inputs: Inputs) -> np.ndarray:
        return encode(inputs.texts, inputs.batch)

    if setup.side == "image":
        return {"image": image, "jpeg": jpeg}
    return {"text": text, "tokenise": tokenise}
