"""Which of open_clip's architectures are the same but for their sizes, and how to make them small.

Two towers share a structure where their module trees hold modules and parameters of the same
names and classes once the numbers of layers are wiped out, and their configurations agree in every
option that is no size. What one of a structure does in the exporter, all of it do.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clipperf.models import open_clip, zoo
from clipperf.models.families.open_clip import model_config
from clipperf.models.open_clip_facts import installed_configs, read_snapshot
from clipperf.models.published import basic_statistics
from clipperf.nouns.variant import SIDES, Side
from clipperf.system.files import digest_of

LAYERS = 2
VOCABULARY = 1000
SHRUNK_FROM_PARAMETERS = 50_000_000

SIZES = {
    "image": (
        *("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"),
        *("timm_model_name", "timm_model_pretrained", "attn_pooler_queries", "attn_pooler_heads"),
        *("norm_kwargs", "timm_drop", "timm_drop_path"),
    ),
    "text": (
        *("layers", "width", "heads", "mlp_ratio", "context_length", "vocab_size", "eos_id"),
        *("pad_id", "norm_kwargs", "hf_model_name", "hf_model_pretrained", "hf_tokenizer_name"),
        *("tokenizer_kwargs", "tokenizer_mode"),
    ),
}
"""Options that change numbers in a graph, not what it is made of; and the tokenizer's."""

SMALL_IMAGE = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
SMALL_TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}

HUB_CLASSES = {
    "roberta": "roberta",
    "xlm-roberta": "xlm-roberta",
    "google/mt5": "mt5",
    "facebook/nllb": "m2m_100",
}
"""What transformers calls the text towers that open_clip names, by how the names start."""


@dataclass(frozen=True)
class Structure:
    """Towers of one side that differ in sizes only; `smallest` is tried for all `members`."""

    id: str
    side: Side
    label: str
    smallest: str
    parameters: int
    members: tuple[str, ...]


def structures(side: Side, alone: str = "") -> list[Structure]:
    """Every structure of the installed open_clip's towers, in order of the label.

    With `alone` those of architectures whose name contains it, which are looked at and no others.
    """
    groups: dict[str, list[tuple[int, str, str]]] = {}
    for name, config in (installed_configs() or {}).items():
        if alone.lower() not in name.lower():
            continue
        key, label = _signature(json.dumps(_alone(config, side)), side)
        count = read_snapshot()["models"].get(name, {}).get(f"{side}_parameters", 0)
        groups.setdefault(key, []).append((count, name, label))
    found = []
    for key, members in groups.items():
        count, smallest, label = min(members)
        names = tuple(sorted((name for _, name, _ in members), key=str.lower))
        found.append(Structure(key, side, label, smallest, count, names))
    return sorted(found, key=lambda s: (s.label.lower(), s.smallest.lower()))


def _alone(config: dict[str, Any], side: Side) -> dict[str, Any]:
    """A configuration with a token-sized other tower."""
    config = copy.deepcopy(config)
    if side == "image":
        hub = "hf_model_name" in config["text_cfg"]
        config["text_cfg"] = {**SMALL_TEXT, "output_tokens": "multimodal_cfg" in config}
        config["custom_text"] = config.get("custom_text", False) or hub
    else:
        config["vision_cfg"] = {**SMALL_IMAGE, "output_tokens": "multimodal_cfg" in config}
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"layers": 1}
    return config


@cache
def _signature(alone: str, side: Side) -> tuple[str, str]:
    """(key, label) of one tower of a configuration given as JSON."""
    config = json.loads(alone)
    part = config["vision_cfg" if side == "image" else "text_cfg"]
    options = {k: v for k, v in part.items() if k not in SIZES[side] and v not in (False, None, "")}
    if hub_name := part.get("hf_model_name"):
        kind = hub_class(hub_name)
        return digest_of(side, kind, options), f"transformers {kind}"
    if isinstance(part.get("layers"), int):
        part["layers"] = LAYERS  # further ones add nothing but time
    with _shallow_timm(part.get("timm_model_name", "")):
        model = open_clip.skeleton(config)
    open_clip.drop_other(model, side)
    tree = {(_wiped(name), type(module).__name__) for name, module in model.named_modules()}
    names = {_wiped(n) for n, _ in (*model.named_parameters(), *model.named_buffers())}
    if side == "image":
        tree = {entry for entry in tree if entry[0]}  # whatever holds the tower
    key = digest_of(side, sorted(tree), sorted(names), options)
    return key, _label(config, side, model, options)


def _wiped(name: str) -> str:
    return re.sub(r"\d+", "N", name)


def _label(config: dict[str, Any], side: Side, model: Any, options: dict[str, Any]) -> str:
    if side == "image":
        trunk = getattr(model.visual, "trunk", None)
        if trunk is None:
            name = type(model.visual).__name__
        else:
            name = f"timm {config['vision_cfg']['timm_model_name'].split('_')[0]}"
            name += f" {type(trunk).__name__}"
    else:
        name = f"{type(model).__name__} text"
    classes = {type(module).__name__ for module in model.modules()}
    gelu = next((kind for kind in ("QuickGELU", "GELUTanh") if kind in classes), None)
    options = {**options, "gelu": gelu} if gelu else options
    shown = [
        k if v is True else f"{k.removeprefix('timm_')}={_short(v)}"
        for k, v in sorted(options.items())
    ]
    return f"{name} ({', '.join(shown)})" if shown else name


def _short(value: Any) -> str:
    return "+".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def hub_class(name: str) -> str:
    """The class in transformers of a text tower that open_clip takes from the hub."""
    return next(kind for start, kind in reversed(HUB_CLASSES.items()) if name.startswith(start))


def small_config(architecture: str, side: Side, folder: Path) -> tuple[dict[str, Any], str]:
    """One tower of an architecture with few layers, and words on what was changed.

    A text tower from the hub gets a configuration of its class's defaults, written to `folder`.
    """
    original = (installed_configs() or {})[architecture]
    config = _alone(original, side)
    if side == "text":
        text = config["text_cfg"]
        if hub_name := text.get("hf_model_name"):
            text["hf_model_name"] = _hub_stand_in(hub_class(hub_name), folder)
            return config, f"{LAYERS} layers of the class's default sizes"
        depth = text.get("layers", 12)
        text["layers"] = min(depth, LAYERS)
        text["vocab_size"] = min(text.get("vocab_size", 49408), VOCABULARY)
        return config, f"{text['layers']} of {depth} layers, {text['vocab_size']} tokens"
    vision = config["vision_cfg"]
    depth = vision.get("layers", 12)
    if name := vision.get("timm_model_name"):
        count = read_snapshot()["models"].get(architecture, {}).get("image_parameters", 0)
        if count < SHRUNK_FROM_PARAMETERS:
            return config, "as it is"
        changed = _fewer_blocks(name)
        _shrink_timm(changed)
        return config, ", ".join(f"{k} {v}" for k, v in changed.items()) or "as it is"
    if isinstance(depth, list):
        vision["layers"] = [min(n, LAYERS) for n in depth]
        return config, f"layers {vision['layers']} of {depth}"
    vision["layers"] = min(depth, LAYERS)
    return config, f"{vision['layers']} of {depth} layers"


def _hub_stand_in(kind: str, folder: Path) -> str:
    from transformers import CONFIG_MAPPING

    sizes: dict[str, Any] = {"vocab_size": VOCABULARY}
    if kind == "m2m_100":
        sizes |= {"encoder_layers": LAYERS, "decoder_layers": LAYERS}
    elif kind == "mt5":
        sizes["num_layers"] = LAYERS
    else:
        sizes["num_hidden_layers"] = LAYERS
        sizes["max_position_embeddings"] = 514  # of every published one; the class says 512
    CONFIG_MAPPING[kind](**sizes).save_pretrained(folder)
    return str(folder)


def _fewer_blocks(timm_name: str) -> dict[str, Any]:
    """What makes timm build a model with few blocks; nothing where its blocks come in stages."""
    if timm_name.startswith("convnext"):
        return {"depths": (1, 1, 2, 1)}
    if timm_name.startswith(("fastvit_mci3", "fastvit_mci4")):
        return {"layers": (2,) * 5}
    return {"depth": LAYERS} if timm_name.startswith(("vit_", "eva", "vitamin")) else {}


def _shrink_timm(changed: dict[str, Any]) -> None:
    """Make timm build smaller models from here on, in this process."""
    import timm

    create = timm.create_model
    timm.create_model = lambda *args, **kwargs: create(*args, **{**kwargs, **changed})


@contextlib.contextmanager
def _shallow_timm(timm_name: str) -> Iterator[None]:
    import timm

    create = timm.create_model
    _shrink_timm(_fewer_blocks(timm_name))
    try:
        yield
    finally:
        timm.create_model = create


def clip_as_service() -> list[tuple[str, dict[Side, str]]]:
    """CLIP-as-service's published models, M-CLIP aside: (alias, structure of each tower)."""
    found = []
    for row in basic_statistics():
        if row.alias.startswith("M-CLIP/"):
            continue
        config = model_config(zoo.resolve(row.alias))
        keys: dict[Side, str] = {
            side: _signature(json.dumps(_alone(config, side)), side)[0] for side in SIDES
        }
        found.append((row.alias, keys))
    return found
