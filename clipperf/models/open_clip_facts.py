"""What is known of open_clip's architectures without importing it: its configurations, read from
where it is installed, and the snapshot that `tools/make_catalog.py` writes."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipperf.system.files import digest_of

PACKAGES = ("open_clip_torch", "timm", "transformers")
"""Packages whose version can change a graph of open_clip's modules."""

LOCAL = "local-dir:"
"""How open_clip marks the path of a folder."""

SNAPSHOT = "open_clip_catalog.json"

FACTS = ("image_px", "context_tokens", "embed_dim", "text_kind")
COUNTS = ("image_parameters", "text_parameters", "image_gflops", "text_gflops")

# open_clip's profile table fed these text towers (by the start of their architecture's name) as
# many tokens as they can take, not the 77 that its tokenizer produces.
COUNTED_AT = {"roberta": 512, "xlm-roberta": 512, "nllb": 1024}

# open_clip's defaults for what a configuration leaves out.
_DEFAULT_CONTEXT, _DEFAULT_PX = 77, 224

# Tensors of a checkpoint that are no parameters, by the names batch norm and attention give them.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "attn_mask")


def installed_configs() -> dict[str, dict[str, Any]] | None:
    """The installed open_clip's model configurations by architecture; None where it is absent."""
    found = find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations))) / "model_configs"
    configs = {path.stem: _read_config(path) for path in sorted(folder.glob("*.json"))}
    return {name: config for name, config in configs.items() if config is not None} or None


def _read_config(path: Path) -> dict[str, Any] | None:
    """A model configuration; None for a file that is none (open_clip skips those too)."""
    config = json.loads(path.read_text(encoding="utf-8"))
    return config if {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys() else None


def config_facts(config: dict[str, Any]) -> dict[str, Any]:
    """What a listing takes from an open_clip model configuration, under the names in `FACTS`."""
    text = config["text_cfg"]
    px = config["vision_cfg"].get("image_size", _DEFAULT_PX)
    if "hf_model_name" in text:
        kind = f"hf:{text['hf_model_name']}"
    elif "hf_tokenizer_name" in text:
        kind = f"hf-tokenizer:{text['hf_tokenizer_name']}"
    else:
        kind = "clip-bpe"
    return {
        "image_px": int(px if isinstance(px, int) else px[0]),
        "context_tokens": int(text.get("context_length", _DEFAULT_CONTEXT)),
        "embed_dim": int(config["embed_dim"]),
        "text_kind": kind,
    }


def config_digest(config: dict[str, Any]) -> str:
    """A digest that changes with anything in a configuration."""
    return digest_of(config)


@cache
def read_snapshot() -> dict[str, Any]:
    """The snapshot: open_clip's version and, by architecture, facts, counts and tags."""
    text = files("clipperf").joinpath("data", SNAPSHOT).read_text(encoding="utf-8")
    return dict(json.loads(text))


def count_safetensors(path: Path) -> tuple[int | None, int | None]:
    """Parameters of the image and the text tower, from the header of a safetensors file.

    The file starts with the header's length (8 bytes, little-endian) and the header, a JSON
    object of tensor names and shapes. Buffers are told apart by the names batch norm gives them.
    """
    if not path.is_file():
        return None, None
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    towers = {"image": 0, "text": 0}
    for name, tensor in header.items():
        last = name.rpartition(".")[2]
        if name.startswith(("__metadata__", "logit_")) or last in _BUFFERS:
            continue
        towers["image" if name.startswith("visual.") else "text"] += math.prod(tensor["shape"])
    return towers["image"], towers["text"]
