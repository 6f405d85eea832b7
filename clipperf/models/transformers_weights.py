"""The weights of a folder of transformers', in one file or several, under its names of today."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clipperf.errors import WeightsError
from clipperf.models import checkpoint_files
from clipperf.text import quoted

if TYPE_CHECKING:
    import torch

NAMES = ("model.safetensors", "pytorch_model.bin")
"""As transformers looks for them. Of several files each has an index beside it."""

IMAGE_PARTS = ("vision_model.", "visual_projection.")
SCALARS = ("logit_scale", "logit_bias")

_POINTER = b"version https://git-lfs"
_UNSTORED = ("position_ids", "token_type_ids")
"""Buffers that older versions stored, and newer ones compute."""


def file_in(folder: Path) -> Path | None:
    """The weights of a folder: a list of several files, or one; None where there are none.

    Raises:
        WeightsError: it is only a pointer of Git LFS.
    """
    for name in (name for base in NAMES for name in (f"{base}.index.json", base)):
        if (folder / name).is_file():
            path = folder / name
            for part in checkpoint_files.parts(path):
                _refuse_pointer(part)
            return path
    return None


def needed(folder: Path) -> Path:
    """`file_in`, where there is one; raises WeightsError that lists what is there instead."""
    found = file_in(folder)
    if found is None:
        there = sorted(path.name for path in folder.iterdir() if path.is_file())
        raise WeightsError(
            f"{folder} holds no weights ({' or '.join(NAMES)}, whole or with an index), but "
            f"{quoted(', '.join(there[:12]))}. Copy them there, or size it with --pretrained random"
        )
    return found


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise WeightsError(
                f"{path} is only a pointer of Git LFS: fetch the file itself with git lfs pull"
            )


def parameters(found: Path) -> tuple[int | None, int | None]:
    """Parameters of the image and the text tower, from headers of safetensors; else None each."""
    towers = [0, 0]
    for path in checkpoint_files.parts(found):
        if path.suffix == ".json":
            continue
        if path.suffix != ".safetensors":
            return None, None
        try:
            with path.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        except (ValueError, MemoryError, OverflowError):
            return None, None  # opening it will say what is wrong
        for name, tensor in header.items():
            if name != "__metadata__" and not name.startswith(SCALARS):
                side = 0 if name.startswith(IMAGE_PARTS) else 1
                towers[side] += math.prod(tensor["shape"])
    return towers[0], towers[1]


def named(state: Mapping[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Tensors under the names of the installed transformers.

    Versions have named the blocks of a tower ``layer`` and ``layers``, and the parts of a norm
    ``gamma`` and ``beta``; buffers that are computed are left out.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name not in wanted:
            if name.endswith(_UNSTORED):
                continue
            for old, new in _OTHER_SPELLINGS:
                if name.replace(old, new) in wanted:
                    name = name.replace(old, new)
                    break
        found[name] = tensor
    return found


_OTHER_SPELLINGS = (
    (".encoder.layer.", ".encoder.layers."),
    (".encoder.layers.", ".encoder.layer."),
    ("LayerNorm.gamma", "LayerNorm.weight"),
    ("LayerNorm.beta", "LayerNorm.bias"),
)
