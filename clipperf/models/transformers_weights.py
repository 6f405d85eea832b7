"""The weights of a folder in transformers' layout, in one file or several, by transformers' names."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clipperf.errors import WeightsError
from clipperf.models import weights
from clipperf.models.transformers_config import read_settings
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


def files(folder: Path) -> tuple[Path, ...]:
    """The files of weights in a folder; none where there are none.

    Raises:
        WeightsError: one of several is missing, or is only a pointer of Git LFS.
    """
    for name in NAMES:
        index = read_settings(folder / f"{name}.index.json")
        if index is not None:
            parts = sorted(set((index.get("weight_map") or {}).values()))
            found = tuple(folder / part for part in parts)
            missing = [path.name for path in found if not path.is_file()]
            if missing or not found:
                raise WeightsError(
                    f"{folder}: {name}.index.json names {len(found)} files, of which "
                    f"{', '.join(missing) or 'none'} is missing: copy or download all of them"
                )
        else:
            found = (folder / name,)
        if all(path.is_file() for path in found):
            for path in found:
                _refuse_pointer(path)
            return found
    return ()


def needed(folder: Path) -> tuple[Path, ...]:
    """`files`, where there are some; raises WeightsError that lists what is there instead."""
    found = files(folder)
    if not found:
        there = sorted(path.name for path in folder.iterdir() if path.is_file())
        raise WeightsError(
            f"{folder} holds no weights ({' or '.join(NAMES)}, in one file or with an index), but "
            f"{quoted(', '.join(there[:12]))}. Copy them there, or size it with --pretrained random"
        )
    return found


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise WeightsError(
                f"{path} is only a pointer of Git LFS: fetch the file itself with git lfs pull"
            )


def parameters(found: Collection[Path]) -> tuple[int | None, int | None]:
    """Parameters of the image and the text tower, from headers of safetensors; else None each."""
    towers = [0, 0]
    for path in found:
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
    return (towers[0], towers[1]) if found else (None, None)


def open_all(paths: Collection[Path]) -> dict[str, torch.Tensor]:
    """All tensors of some files, memory-mapped.

    Raises:
        WeightsError: a file cannot be read.
    """
    state: dict[str, torch.Tensor] = {}
    for path in paths:
        state.update(weights.open_state_dict(path))
    return state


def named(
    state: Mapping[str, torch.Tensor], wanted: Collection[str]
) -> dict[str, torch.Tensor]:
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
