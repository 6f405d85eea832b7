"""What is sent to a server under measurement: seeded, the same for every server that takes it."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.bench.inputs import make_inputs
from clipperf.errors import UsageError
from clipperf.models import sample
from clipperf.nouns.cell import EngineRequest
from clipperf.nouns.model import TextIds

COUNT = 32
"""Inputs that are offered in turns; where a batch is larger, as many as a batch has."""

MOST_FILES = 256
"""Of the user's own images, spread over the folder."""

PHOTO_PX = (640, 480)
QUALITY = 90

WORDS = (
    *("photo", "picture", "drawing", "painting", "black", "white", "red", "green", "blue"),
    *("small", "large", "old", "new", "cat", "dog", "bird", "horse", "car", "bus", "train"),
    *("boat", "house", "tree", "flower", "river", "beach", "street", "city", "man", "woman"),
    *("child", "hand", "food", "table", "chair", "window", "door", "night", "day", "sun"),
    *("snow", "summer", "winter", "with"),
)
"""Each is one token of CLIP's tokenizer."""

AROUND = 2
"""The first and the last token of a text."""


def offered(request: EngineRequest, text_ids: TextIds, paths: Sequence[str] = ()) -> np.ndarray:
    """What a cell of a server's offers, [n, ...] with at least a batch of them.

    Image files: the bytes of `paths`, else the bundled sample's drawings at 640x480 px as JPEG.
    Texts: words, one token each in CLIP's tokenizer, as many as make the cell's tokens with the
    first and the last. Arrays: as `make_inputs` makes them for an engine in this process.
    """
    endpoint, cell = request.endpoint, request.cell
    count = max(COUNT, cell.batch)
    if endpoint is None or endpoint.takes in ("pixels", "tokens"):
        whole = dataclasses.replace(request, cell=dataclasses.replace(cell, batch=count))
        return make_inputs(whole, text_ids)
    if endpoint.takes == "texts":
        return _objects(texts(count, cell.tokens or request.spec.context_tokens))
    files = _read(paths) if paths else photos(count)
    return _objects([files[place % len(files)] for place in range(max(count, len(files)))])


def texts(count: int, tokens: int, seed: int = 0) -> list[str]:
    """Texts of so many tokens in CLIP's tokenizer, no two of them likely to be equal."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(WORDS), (count, max(1, tokens - AROUND)))
    return [" ".join(WORDS[place] for place in row) for row in rows]


def photos(count: int) -> list[bytes]:
    """JPEG files of 640x480 px: drawings of the bundled sample, enlarged."""
    from PIL import Image

    found = []
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        entries = [json.loads(line) for line in archive.read("captions.jsonl").splitlines()]
        for entry in entries[:: max(1, len(entries) // count)][:count]:
            image = Image.open(io.BytesIO(archive.read(entry["image"]))).convert("RGB")
            made = io.BytesIO()
            image.resize(PHOTO_PX).save(made, "JPEG", quality=QUALITY)
            found.append(made.getvalue())
    return found


def _read(paths: Sequence[str]) -> list[bytes]:
    taken = paths[:: max(1, -(-len(paths) // MOST_FILES))]
    try:
        return [Path(path).read_bytes() for path in taken]
    except OSError as exc:
        raise UsageError(f"--from-files: {exc}") from exc


def _objects(values: Sequence[Any]) -> np.ndarray:
    """An array of Python objects, none of which numpy looks into."""
    found = np.empty(len(values), object)
    found[:] = values
    return found
