"""transformers' CLIP towers as open_clip's, where that is exact: the same operations on each token.

Then `models.lean` leaves out of their graphs what an embedding never reads, and blocks are traced
once. What open_clip's modules cannot do (another activation, sides that are no squares) runs in
transformers' own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clipperf.models.weights import let_go
from clipperf.nouns.variant import Side

if TYPE_CHECKING:
    import torch

QUICK_GELU = {"quick_gelu": True, "gelu": False}
"""By `hidden_act`: which of open_clip's activations it is."""

_EPS = 1e-5

_SMALLEST: dict[Side, dict[str, Any]] = {
    "image": {"image_size": 2, "patch_size": 1, "width": 2, "layers": 1, "head_width": 2},
    "text": {"context_length": 2, "vocab_size": 2, "width": 2, "heads": 1, "layers": 1},
}
"""Stands for the other tower, which is dropped."""

_LEGACY_EOS = 2
"""Configurations of before 2023 have this `eos_token_id`; those models pool at the largest id."""


def open_clip_config(config: Any, side: Side) -> dict[str, Any] | None:
    """open_clip's configuration of one tower of a `CLIPConfig`; None where there is none."""
    part = config.vision_config if side == "image" else config.text_config
    width, heads = part.hidden_size, part.num_attention_heads
    ratio = part.intermediate_size / width
    if (
        part.hidden_act not in QUICK_GELU
        or width % heads
        or int(width * ratio) != (part.intermediate_size)
    ):
        return None
    made: dict[str, Any] = {"width": width, "layers": part.num_hidden_layers, "mlp_ratio": ratio}
    if part.layer_norm_eps != _EPS:
        made["norm_kwargs"] = {"eps": part.layer_norm_eps}
    if side == "image":
        if not isinstance(part.image_size, int) or not isinstance(part.patch_size, int):
            return None
        if part.num_channels != 3:
            return None
        made |= {
            "image_size": part.image_size,
            "patch_size": part.patch_size,
            "head_width": width // heads,
        }
    else:
        if not isinstance(part.eos_token_id, int):
            return None
        made |= {
            "context_length": part.max_position_embeddings,
            "vocab_size": part.vocab_size,
            "heads": heads,
        }
        # The first of the largest ids is the first end token, and every text has one.
        if part.eos_token_id not in (_LEGACY_EOS, part.vocab_size - 1):
            made |= {"pool_type": "eos", "eos_id": part.eos_token_id}
    parts = {**_SMALLEST, side: made}
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": QUICK_GELU[part.hidden_act],
        "vision_cfg": parts["image"],
        "text_cfg": parts["text"],
    }


_IN_BLOCKS = (
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("self_attn.out_proj.", "attn.out_proj."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)
_ELSEWHERE = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_BLOCK = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)")
_PROJECTION = re.compile(r"self_attn\.([qkv])_proj\.(weight|bias)")
_BLOCKS = {"vision": "visual.transformer.resblocks", "text": "transformer.resblocks"}


def as_open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of one tower under open_clip's names; queries, keys and values are joined.

    They are taken out of `state`, so that what is joined is not in RAM twice.

    Raises:
        KeyError: it has others.
    """
    import torch

    found: dict[str, torch.Tensor] = {}
    for name in list(state):
        block = _BLOCK.fullmatch(name)
        if block is None:
            tensor = state.pop(name)
            found[_ELSEWHERE[name]] = tensor.T if name in _TRANSPOSED else tensor
            continue
        part, number, rest = block.groups()
        prefix = f"{_BLOCKS[part]}.{number}"
        projection = _PROJECTION.fullmatch(rest)
        if projection is None:
            old, new = next(pair for pair in _IN_BLOCKS if rest.startswith(pair[0]))
            found[f"{prefix}.{rest.replace(old, new)}"] = state.pop(name)
        elif projection[1] == "q":
            parts = [state.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
            found[f"{prefix}.attn.in_proj_{projection[2]}"] = torch.cat(parts)
            for part in parts:
                let_go(part)
    return found
