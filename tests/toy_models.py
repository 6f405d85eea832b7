"""open_clip's classes at toy sizes, one of each kind, with every tensor random.

Batch-norm statistics are random too, so that nothing hides behind a default.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch

from clipperf.models.families import open_clip as towers
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side

PX, VOCAB, START = 64, 120, 1
"""Texts begin with `START`."""
IMAGE = {"image_size": PX, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": VOCAB, "width": 64, "heads": 2, "layers": 2}
NOT_CAUSAL = {**TEXT, "context_length": 16, "no_causal_mask": True, "pool_type": "last"}


def timm(name: str, **options: Any) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_model_pretrained": False, "image_size": PX, **options}


CONFIGS: dict[str, dict[str, Any]] = {
    "toy-clip": {"vision_cfg": IMAGE, "text_cfg": TEXT},
    "toy-clip-quickgelu": {"vision_cfg": IMAGE, "text_cfg": TEXT, "quick_gelu": True},
    "toy-alt": {"vision_cfg": {**IMAGE, "ls_init_value": 1e-4}, "text_cfg": TEXT},
    "toy-resnet": {
        "vision_cfg": {"image_size": PX, "layers": [1, 2, 1, 1], "width": 16},
        "text_cfg": TEXT,
    },
    "toy-siglip": {
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": timm("test_vit3", timm_pool="map", timm_proj="none", image_size=160),
        "text_cfg": {**NOT_CAUSAL, "proj_bias": True, "norm_kwargs": {"eps": 1e-6}},
        "embed_dim": 96,
    },
    "toy-worldwide": {
        "vision_cfg": IMAGE,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 2},
    },
    "toy-coca": {
        "custom_text": True,
        "vision_cfg": {**IMAGE, "attentional_pool": True, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "context_length": 76},
    },
    "toy-clipa": {
        "vision_cfg": {**IMAGE, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": NOT_CAUSAL,
    },
    "toy-convnext": {
        "vision_cfg": timm("test_convnext", timm_pool="", timm_proj="linear"),
        "text_cfg": TEXT,
    },
    "toy-hybrid": {
        "custom_text": True,
        "vision_cfg": timm("vitamin_small_224", timm_pool="", timm_proj="linear", image_size=224),
        "text_cfg": TEXT,
    },
}
NAMES = list(CONFIGS)


@contextlib.contextmanager
def registered(folder: Path) -> Iterator[None]:
    """Inside, the toy architectures are open_clip's; their configurations lie in `folder`."""
    from open_clip import factory

    kept = copy.copy(factory._MODEL_CONFIG_PATHS), copy.copy(factory._MODEL_CONFIGS)
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 32, **config}))
    open_clip.add_model_config(folder)
    try:
        yield
    finally:
        factory._MODEL_CONFIG_PATHS[:], factory._MODEL_CONFIGS = kept[0], kept[1]


MODELS: dict[str, Any] = {}


def reference(name: str) -> Any:
    """open_clip's own model of an architecture, every tensor of it random."""
    if name not in MODELS:
        # Attention takes another path, with other rounding, where weights can be trained.
        model = open_clip.create_model(name).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        state = model.state_dict()
        for key, tensor in state.items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise * 0.02)
                if key.endswith("running_var"):
                    tensor.abs_()
        MODELS[name] = model
    return MODELS[name]


def saved(name: str, path: Path) -> Path:
    """The checkpoint of a reference model, as .safetensors or .pt."""
    state = {k: v.contiguous().clone() for k, v in reference(name).state_dict().items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def spec_of(name: str, pretrained: str | Path = "random:0") -> ModelSpec:
    config = CONFIGS[name]
    return ModelSpec(
        id=f"{name}::{Path(str(pretrained)).name}",
        family="open_clip",
        architecture=name,
        pretrained=str(pretrained),
        image_px=config["vision_cfg"]["image_size"],
        context_tokens=config["text_cfg"]["context_length"],
        embed_dim=config.get("embed_dim", 32),
    )


def inputs_of(name: str, side: Side, rows: int = 12) -> Any:
    """Pictures of large blotches; texts of many lengths that end as the architecture expects."""
    generator = torch.Generator().manual_seed(2)
    if side == "image":
        px = CONFIGS[name]["vision_cfg"]["image_size"]
        blotches = torch.randn(rows, 3, 5, 5, generator=generator)
        return torch.nn.functional.interpolate(blotches, size=(px, px), mode="bicubic")
    text = CONFIGS[name]["text_cfg"]
    end = text["eos_id"] if text.get("pool_type") == "eos" else VOCAB - 1
    tokens = torch.zeros(rows, text["context_length"], dtype=torch.int64)
    for row in tokens:
        words = int(torch.randint(2, text["context_length"] - 1, (), generator=generator))
        row[:words] = torch.randint(3, VOCAB - 1, (words,), generator=generator)
        row[0], row[words] = START, end
    return tokens


def encode(model: Any, side: Side, inputs: Any, normalize: bool = False) -> Any:
    with torch.inference_mode():
        function = model.encode_image if side == "image" else model.encode_text
        return function(inputs, normalize=normalize)


def embed(spec: ModelSpec, side: Side, inputs: Any, normalize: bool = False) -> Any:
    with torch.inference_mode():
        return towers.build_tower(spec, side, normalize).module(inputs)
