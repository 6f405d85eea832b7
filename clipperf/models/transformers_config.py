"""What a folder of transformers' says of its model: `config.json` and the files beside it.

Read without transformers, whose import takes seconds: what a listing needs are a few sizes.
Building a tower reads the same file through transformers itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, UsageError, WeightsError
from clipperf.nouns.model import ModelSpec, Sizes
from clipperf.system.files import read_json
from clipperf.system.targets import existing
from clipperf.system.targets import kind_of as at
from clipperf.text import quoted

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
TOKENIZER = "tokenizer_config.json"

MOST_TOKENS = 77
"""Texts of towers that could take hundreds of tokens are cut here, as CLIP's are: a tower of fixed
length computes all of them, and captions are shorter."""


@dataclass(frozen=True)
class Kind:
    """A class of transformers' that embeds images and texts, and what its configurations leave out.

    `masked`: its text tower does not attend to padding, so the tokenizer's mask counts, whatever
    the tokenizer's own settings say. `reserved` are positions that no token can have.
    `same_image`: its image tower is CLIP's own.
    """

    model: str
    image_px: int = 224
    patch_px: int = 32
    context_tokens: int = 77
    embed_dim: int = 512
    masked: bool = False
    reserved: int = 0
    same_image: bool = False


KINDS = {
    "clip": Kind("CLIPModel", same_image=True),
    "siglip": Kind("SiglipModel", patch_px=16, context_tokens=64, embed_dim=768),
    "siglip2": Kind("Siglip2Model", patch_px=16, context_tokens=64, embed_dim=768),
    "altclip": Kind(
        "AltCLIPModel",
        context_tokens=514,
        embed_dim=768,
        masked=True,
        reserved=2,
        same_image=True,
    ),
    "chinese_clip": Kind("ChineseCLIPModel", context_tokens=512, masked=True, same_image=True),
}
"""By `model_type`."""

NAFLEX_PATCHES = 256


@dataclass(frozen=True)
class Facts:
    """What the rest of clipperf asks of a configuration; `most_tokens` is what the tower takes."""

    kind: str
    image_px: int
    context_tokens: int
    embed_dim: int
    most_tokens: int


def folder_of(name: str) -> Path | None:
    """The folder with a `CONFIG` that a user's text names; None for other texts.

    Raises:
        UsageError: it cannot be told.
    """
    folder = existing(name)
    return folder if folder is not None and at(folder / CONFIG) == "file" else None


def cut_short(spec: ModelSpec, most: int) -> dict[str, str]:
    """What is assumed of texts where the tower takes up to `most` tokens."""
    if most <= spec.context_tokens:
        return {}
    said = f"texts are cut at {spec.context_tokens} tokens, the model takes {most}"
    return {"context length": said}


def check_length(spec: ModelSpec, sizes: Sizes, most: int) -> None:
    """Raise UsageError for texts that are longer than a tower takes."""
    if (sizes.context_tokens or 1) > most:
        raise UsageError(f"--context-length {sizes.context_tokens}: {spec.id} takes {most} at most")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` with the parts' older spelling (``text_config_dict``) put into the newer.

    Raises:
        WeightsError: it is missing or damaged.
    """
    config = _object(folder / CONFIG)
    for part in ("text_config", "vision_config"):
        older = config.get(f"{part}_dict")
        config[part] = {**(config.get(part) or {}), **(older or {})}
    return config


def facts(folder: Path) -> Facts:
    """The sizes of a folder's model.

    Raises:
        UsageError: it is of another kind; the message says why that cannot be had.
        WeightsError: a file is missing or damaged.
    """
    config = read_config(folder)
    kind = kind_of(config, folder)
    known = KINDS[kind]
    image, text = config["vision_config"], config["text_config"]
    if kind == "siglip2":
        side = round(_whole(image.get("num_patches", NAFLEX_PATCHES), folder) ** 0.5)
        px = side * _whole(image.get("patch_size", known.patch_px), folder)
    else:
        px = _whole(image.get("image_size", known.image_px), folder)
    positions = _whole(text.get("max_position_embeddings") or known.context_tokens, folder)
    most = min(positions - known.reserved, _longest(folder) or positions)
    if kind in ("siglip", "siglip2"):
        dim = image.get("hidden_size", known.embed_dim)
    else:
        dim = config.get("projection_dim", known.embed_dim)
    return Facts(kind, px, min(most, MOST_TOKENS), _whole(dim, folder), most)


def kind_of(config: Mapping[str, Any], folder: Path) -> str:
    """The key of `KINDS`; raises UsageError for models that cannot be had, with the reason."""
    kind = config.get("model_type")
    if kind in KINDS:
        return str(kind)
    names = ", ".join(known.model for known in KINDS.values())
    if config.get("auto_map"):
        raise UsageError(
            f"{folder}: its model comes as code on the hub (auto_map in {CONFIG}), which clipperf "
            f"never runs. What transformers itself has code for: {names}"
        )
    raise UsageError(
        f"{folder}: {CONFIG} is of a model_type {quoted(kind)}; models that embed images and texts "
        f"are {names}"
    )


def read_settings(path: Path) -> dict[str, Any] | None:
    """The object in one of the files beside `config.json`; None where there is no such file.

    Raises:
        WeightsError: it is damaged.
    """
    return _object(path) if path.is_file() else None


def _longest(folder: Path) -> int | None:
    """The length that the tokenizer cuts at; None where it does not say (a number beyond all)."""
    said = (read_settings(folder / TOKENIZER) or {}).get("model_max_length")
    return int(said) if isinstance(said, int | float) and 0 < said < 1e6 else None


def _whole(value: Any, folder: Path) -> int:
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WeightsError(
            f"{folder / CONFIG}: {quoted(value)} stands where a size belongs (of images that are "
            f"no squares transformers' own towers have no positions)"
        )
    return value


def _object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, large=True)
    except ArtifactError as exc:
        raise WeightsError(str(exc)) from exc
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: expected an object, got {type(found).__name__}")
    return found
