"""Adapter: infinity-emb in the process: its AsyncEmbeddingEngine, both towers.

It takes pictures, not pixels, so "image" decodes uncompressed bitmaps of 224x224, a copy. Its
queue puts texts of about equal length into one batch. On CPUs it computes in fp32 alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("infinity-emb", "transformers", "torch")


def open(setup: Setup) -> dict[str, Action]:
    """The engine runs in a loop of its own, which stands still between calls."""
    import torch
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs
    from PIL import Image

    torch.set_num_threads(setup.threads)
    arguments = EngineArgs(
        model_name_or_path=str(setup.folder / "transformers"), engine="torch", device="cpu",
        dtype="float32", batch_size=64, model_warmup=False,
    )  # fmt: skip
    engine = AsyncEmbeddingEngine.from_args(arguments)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())

    def embed(items: list[Any], one: Callable[[list[Any]], Coroutine[Any, Any, Any]]) -> np.ndarray:
        return np.stack(loop.run_until_complete(one(items))[0])

    def images(paths: list[str]) -> np.ndarray:
        pictures = [Image.open(path) for path in paths]
        return embed(pictures, lambda items: engine.image_embed(images=items))

    def text(inputs: Inputs) -> np.ndarray:
        parts = chunks(inputs.texts, inputs.batch)
        return np.concatenate(
            [embed(part, lambda items: engine.embed(sentences=items)) for part in parts]
        )

    if setup.side == "text":
        return {"text": text}
    return {
        "image": lambda inputs: images(inputs.bitmaps),
        "jpeg": lambda inputs: images(inputs.jpegs),
    }
