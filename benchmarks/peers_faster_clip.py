"""Adapter: faster-clip. Its image tower alone: its texts are those of another, multilingual model.

It takes the bytes of image files only, so "image" decodes uncompressed bitmaps of 224x224, a copy.
Its QuickGELU is fixed, so its embeddings are compared with those of a tower that has it, too.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from peers_worker import Action, Inputs, Setup

PACKAGES = ("faster-clip",)


def open(setup: Setup) -> dict[str, Action]:
    """Its cache of downloads is the prepared folder; the weights are read at the first call."""
    if setup.side != "image":
        return {}
    os.environ["FASTER_CLIP_CACHE"] = str(setup.folder / "faster-clip")
    from faster_clip import ClipModel

    model = ClipModel()

    def embed(paths: list[str]) -> np.ndarray:
        return np.array(model.encode_image([Path(p).read_bytes() for p in paths]), np.float32)

    def image(inputs: Inputs) -> np.ndarray:
        return embed(inputs.bitmaps)

    def jpeg(inputs: Inputs) -> np.ndarray:
        return embed(inputs.jpegs)

    return {"image": image, "jpeg": jpeg}
