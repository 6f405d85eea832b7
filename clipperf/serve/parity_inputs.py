"""The real inputs on which every artifact is compared with PyTorch, and tests itself.

They are some of the bundled sample's, which an export writes into the folder: what the package
holds may change after that, and what was judged stays with its judgement.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs import tokenize
from clipperf.inputs.decode import PIL_ERRORS, load_image
from clipperf.inputs.preprocess import preprocess
from clipperf.models import sample
from clipperf.nouns.artifact import INPUTS_FILE
from clipperf.nouns.variant import Side
from clipperf.serialize import parse_json
from clipperf.serve.towers import read_pixels
from clipperf.system.files import replacing
from clipperf.system.reading import read_small

COUNT = 12
WHAT = "of the bundled sample's images or captions"

_LIST = "inputs.json"
_MOST_BYTES = 2**22
_MOST_PX = 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_inputs(folder: Path) -> None:
    """Write the inputs into an artifact folder: the same bytes whoever does so, and when."""
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        lines = archive.read("captions.jsonl").decode().splitlines()
        # Spread over the set: neighbours in it are drawn alike.
        entries = [json.loads(line) for line in lines[:: max(1, len(lines) // COUNT)][:COUNT]]
        contents = {entry["image"]: archive.read(entry["image"]) for entry in entries}
    listed = [{"image": e["image"], "text": f"a drawing of {e['caption']}"} for e in entries]
    contents[_LIST] = json.dumps(listed, indent=1).encode()
    contents |= {name: (sample.folder() / name).read_bytes() for name in sample.NOTICES}
    with replacing(folder / INPUTS_FILE) as path, zipfile.ZipFile(path, "w") as made:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # whatever this one is
            made.writestr(entry, data)


def parity_inputs(
    folder: Path,
    side: Side,
    dtype: str = "float32",
    tokenizer: tokenize.Tokenizer | None = None,
) -> np.ndarray:
    """Inputs for the tower of an artifact folder, prepared as its preprocessing and tokenizer say.

    `tokenizer` is the folder's where it was read before.

    Returns pixels of `dtype` [12, 3, image_px, image_px] or int64 tokens [12, context_tokens].

    Raises:
        ArtifactError: the folder does not hold them.
    """
    path = folder / INPUTS_FILE
    if side == "text":
        texts = _read(path, lambda archive, listed: [str(entry["text"]) for entry in listed])
        return (tokenizer or tokenize.Tokenizer.from_folder(folder))(texts)
    images = _read(path, lambda archive, listed: [_image(archive, e["image"]) for e in listed])
    # Chosen after the comparison, the way to preprocess is none of its business.
    spec = replace(read_pixels(folder), method="exact")
    return preprocess(images, spec, np.empty((len(images), *spec.shape), dtype))


def _read(path: Path, take: Callable[[zipfile.ZipFile, Any], list[Any]]) -> list[Any]:
    """What `take` makes of the archive and of the entries that it lists."""
    data = read_small(path, _MOST_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = take(archive, parse_json(_member(archive, _LIST), path))
    except (zipfile.BadZipFile, UsageError, *PIL_ERRORS) as exc:
        raise _damaged(path, exc) from exc
    if len(found) != COUNT:
        raise _damaged(path, f"{len(found)} of {COUNT} inputs")
    return found


def _damaged(path: Path, why: object) -> ArtifactError:
    return ArtifactError(f"{path} holds no inputs to compare: {why}; export the model again")


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the archive, which packs none: what is packed may be any size once it is not."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is packed")
    return archive.read(name)


def _image(archive: zipfile.ZipFile, name: str) -> Image.Image:
    image = load_image(_member(archive, name))
    if image.width * image.height > _MOST_PX:
        raise ValueError(f"{name} has {image.width} x {image.height} pixels")
    return image
