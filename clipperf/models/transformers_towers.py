"""Towers of transformers' models, built one at a time without ever holding both in RAM.

As in `models.open_clip`, the whole model is laid out without storage, its checkpoint is held to
what the whole model wants, and only the tensors of the wanted tower are assigned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipperf.models import open_clip, transformers_weights, weights
from clipperf.models.open_clip_fit import check_fit
from clipperf.models.towers import finished
from clipperf.models.transformers_clip import as_open_clip, open_clip_config
from clipperf.models.transformers_config import CONFIG, KINDS, Facts
from clipperf.nouns.model import ModelSpec, Tower
from clipperf.nouns.variant import Side

PARTS: dict[Side, tuple[str, ...]] = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
}
"""The modules that each tower of transformers' models is made of."""

EXACT = 256
"""Whole numbers up to this are numbers of bf16, too, of 8 bits (and of fp16)."""

OTHERS = "Are weights and configuration of one model, and is no adapter left beside them?"
"""Advice where they do not fit."""


class Embedder(nn.Module):
    """A model of transformers' with the methods of open_clip's, for `models.towers`.

    `pad` is the id of the padding that texts do not attend to, None where they do.
    """

    def __init__(
        self, model: Any, facts: Facts, pad: int | None, side: str, most_tokens: int
    ) -> None:
        super().__init__()
        self.model = model
        self.most_tokens = most_tokens
        self.facts = facts
        self.pad = pad
        self.padding_side = side

    def encode_image(self, pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
        """float [batch, 3, px, px] to [batch, embed_dim]."""
        del normalize  # whoever calls does that
        if self.facts.kind == "siglip2":
            return self._of_patches(pixels)
        found: torch.Tensor = self.model.get_image_features(pixels).pooler_output
        return found

    def _of_patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """NaFlex at the grid that its positions were trained at, so that none is resized."""
        vision = self.model.vision_model
        embeddings = vision.embeddings
        px, side = embeddings.patch_size, embeddings.position_embedding_size
        patches = pixels.unflatten(2, (side, px)).unflatten(4, (side, px))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        x = embeddings.patch_embedding(patches) + embeddings.position_embedding.weight
        x = vision.post_layernorm(vision.encoder(inputs_embeds=x, attention_mask=None)[0])
        found: torch.Tensor = vision.head(x, None)
        return found

    def encode_text(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
        """int64 [batch, tokens] to [batch, embed_dim]."""
        del normalize
        given: dict[str, torch.Tensor] = {}
        if self.pad is not None:
            dtype = next(self.model.parameters()).dtype
            seen = attended(tokens, self.pad, self.most_tokens, self.padding_side)
            given["attention_mask"] = additive(seen, dtype)
        if self.facts.kind in ("altclip", "chinese_clip"):
            # Left to itself transformers takes types from a table of zeros, by position.
            given["token_type_ids"] = torch.zeros_like(tokens)
        if self.facts.kind == "altclip" and self.pad is not None:
            given["position_ids"] = counted(tokens, self.pad, self.most_tokens)
        found: torch.Tensor = self.model.get_text_features(tokens, **given).pooler_output
        return found


def attended(
    tokens: torch.Tensor, pad: int, most_tokens: int, padding_side: str = "right"
) -> torch.Tensor:
    """Which tokens are no padding, bool [batch, tokens]: all up to the last that is another one.

    Texts have `most_tokens` at most, see `running_sum`.
    So a padding token that was typed in a text counts, as it does in the mask of a tokenizer.
    """
    others = (tokens != pad).to(torch.int64)
    before = running_sum(others, most_tokens)
    if padding_side == "left":
        return before > 0
    return (others.sum(1, keepdim=True) - before + others) > 0


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention's scores, [batch, 1, 1, tokens]: nothing for tokens seen."""
    hidden = (~seen)[:, None, None].to(dtype)
    return hidden * torch.finfo(dtype).min


def counted(tokens: torch.Tensor, pad: int, most_tokens: int) -> torch.Tensor:
    """RoBERTa's positions: tokens other than padding are counted from `pad` + 1 on.

    Texts have `most_tokens` at most, see `running_sum`.
    """
    others = (tokens != pad).to(torch.int64)
    return running_sum(others, most_tokens) * others + pad


def running_sum(counts: torch.Tensor, most_tokens: int) -> torch.Tensor:
    """The sum of each token's 0 or 1 and of all before it, int64 [batch, tokens].

    Added up as floats where texts are no longer than `EXACT`: TensorRT's table of operators knows
    running sums of floats alone (onnx-tensorrt, docs/operators.md, CumSum), and OpenVINO rounds
    them to bf16 where it computes in it. Longer ones are added up as whole numbers.
    """
    if most_tokens > EXACT:
        return counts.cumsum(1)
    return counts.to(torch.float32).cumsum(1).to(torch.int64)


def build(
    spec: ModelSpec,
    folder: Path,
    facts: Facts,
    side: Side,
    normalize: bool,
    pad: int | None,
    padding_side: str,
    checkpoint: Path | None,
    assumptions: Mapping[str, str],
) -> Tower:
    """One tower of the model in a folder, in fp32 on the CPU; its weights are a checkpoint's.

    Without `checkpoint` they are the seeded ones that `spec` names.

    Raises:
        WeightsError: the checkpoint cannot be read, or does not fit.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model: Any = laid_out(KINDS[facts.kind].model, config)
    wanted = model.state_dict()
    drop_other(model, side)
    held = fill(model, wanted, spec, side, checkpoint, str(folder / CONFIG))
    similarity = None if held is None else open_clip.similarity_in(held, model)
    same = KINDS[facts.kind].same_image if side == "image" else facts.kind == "clip"
    mapped = open_clip_config(config, side) if same else None
    if mapped is None:
        model = Embedder(model, facts, pad, padding_side, spec.context_tokens)
    else:
        state, model = model.state_dict(), None
        state = as_open_clip(state)
        model = open_clip.skeleton(mapped)
        open_clip.drop_other(model, side)
        model.load_state_dict(state, strict=True, assign=True)
    size = (facts.image_px, facts.image_px)
    tower = finished(model, spec, side, size, normalize, assumptions)
    return replace(tower, similarity=similarity)


def fill(
    model: nn.Module,
    wanted: Mapping[str, torch.Tensor],
    spec: ModelSpec,
    side: Side,
    checkpoint: Path | None,
    described: str,
) -> dict[str, torch.Tensor] | None:
    """Give one tower its weights; returns what its checkpoint holds, None without one.

    Without `checkpoint` they are the seeded ones that `spec` names. `wanted` are the tensors of the
    whole model, `described` is what an error calls it.

    Raises:
        WeightsError: the checkpoint cannot be read, or does not fit.
    """
    if checkpoint is None:
        weights.fill_random(model, "", int(spec.pretrained.partition(":")[2]))
        return None
    own = model.state_dict()
    state = transformers_weights.named(weights.open_state_dict(checkpoint), wanted)
    said = f"{checkpoint} does not fit {described}"
    check_fit(wanted, own.keys(), state, side, said, OTHERS)
    chosen = {name: weights.as_fp32(state[name]) for name in own}
    model.load_state_dict(chosen, strict=True, assign=True)
    return state


def laid_out(name: str, config: Any) -> nn.Module:
    """A model of transformers' without storage, whose attention is written out."""
    import transformers

    # Of what else there is, some looks at the mask's values, and so cannot be traced.
    config._attn_implementation = "eager"
    with open_clip.parameters_on_meta():
        model: nn.Module = getattr(transformers, name)(config).eval()
    return model


def drop_other(model: Any, side: Side) -> None:
    """Remove what only the other tower needs: its tensors are never materialised."""
    other: Side = "text" if side == "image" else "image"
    for name in ("logit_scale", "logit_bias", *PARTS[other]):
        if hasattr(model, name):
            delattr(model, name)
