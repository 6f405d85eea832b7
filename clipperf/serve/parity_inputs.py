"""The real inputs on which every artifact is compared with PyTorch, and tests itself."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from clipperf.inputs import tokenize
from clipperf.inputs.preprocess import preprocess
from clipperf.models import sample
from clipperf.nouns.variant import Side
from clipperf.serve.towers import read_pixels

COUNT = 12
WHAT = "of the bundled sample's images or captions"


def parity_inputs(folder: Path, side: Side, dtype: str = "float32") -> np.ndarray:
    """Inputs for the tower of an artifact folder, prepared as its preprocessing and tokenizer say.

    Returns pixels of `dtype` [12, 3, image_px, image_px] or int64 tokens [12, context_tokens].
    """
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        lines = archive.read("captions.jsonl").decode().splitlines()
        # Spread over the set: neighbours in it are drawn alike.
        entries = [json.loads(line) for line in lines[:: max(1, len(lines) // COUNT)][:COUNT]]
        if side == "image":
            # Chosen after the comparison, the way to preprocess is none of its business.
            spec = replace(read_pixels(folder), method="exact")
            images = [Image.open(io.BytesIO(archive.read(e["image"]))) for e in entries]
            return preprocess(images, spec, np.empty((len(images), *spec.shape), dtype))
    tokenizer = tokenize.Tokenizer.from_folder(folder)
    return tokenizer([f"a drawing of {e['caption']}" for e in entries])
