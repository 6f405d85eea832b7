"""The arrays that are fed to the engines under measurement: seeded, valid, made in the worker."""

from __future__ import annotations

import numpy as np

# Imported here because numpy puts it off until first use, and 6 MiB of RAM would then be charged
# to whichever engine used it first.
from numpy.random import default_rng

from clipperf.nouns.cell import EngineRequest
from clipperf.nouns.model import CLIP_IDS, TextIds


def make_inputs(request: EngineRequest, text_ids: TextIds = CLIP_IDS, seed: int = 0) -> np.ndarray:
    """One batch for a cell: the same array for every runtime, since it is seeded.

    Images: [batch, 3, image_px, image_px], float32 and standard normal, which is what preprocessed
    pixels look like, or any bytes where the cell's input is uint8. Texts: int64 [batch, tokens],
    every row full, with EOT in the last place, so that a text of `tokens` tokens is what is paid
    for.
    """
    rng = default_rng(seed)
    cell = request.cell
    if cell.side == "image":
        shape = (cell.batch, 3, request.spec.image_px, request.spec.image_px)
        if cell.input == "uint8":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        return rng.standard_normal(shape, dtype=np.float32)
    tokens = cell.tokens or request.spec.context_tokens
    rows = rng.integers(text_ids.low, text_ids.high, (cell.batch, tokens), dtype=np.int64)
    if text_ids.sot is not None:
        rows[:, 0] = text_ids.sot
    rows[:, -1] = text_ids.eot
    return rows
