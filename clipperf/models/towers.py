"""The two torch modules that are exported: arrays in, embeddings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from clipperf.nouns.model import ModelSpec, Tower
from clipperf.nouns.variant import Side


class ImageTower(nn.Module):
    """float32 [batch, 3, px, px] to float32 [batch, embed_dim], whatever the weights' dtype."""

    def __init__(self, model: Any, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed a batch of preprocessed images."""
        dtype = next(self.model.parameters()).dtype
        embeds = self.model.encode_image(pixels.to(dtype), normalize=False).float()
        return nn.functional.normalize(embeds, dim=-1) if self.normalize else embeds


class TextTower(nn.Module):
    """int64 [batch, tokens] to float32 [batch, embed_dim].

    Where `short` is set the number of tokens may be anything up to the context length: position
    embeddings and the causal mask are cut to it. A causal tower never looks past the EOT that it
    is pooled at, so cutting there changes nothing. `lean`: see `models.lean`.
    """

    lean = False

    def __init__(self, model: Any, short: bool, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.short = short
        self.normalize = normalize

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed a batch of token rows."""
        if self.short:
            embeds = self._encode(tokens)
        else:
            embeds = self.model.encode_text(tokens, normalize=False)
        embeds = embeds.float()
        return nn.functional.normalize(embeds, dim=-1) if self.normalize else embeds

    def _encode(self, tokens: torch.Tensor) -> torch.Tensor:
        text = text_part(self.model)
        transformer, length = text.transformer, tokens.shape[1]
        begin = int(self.begins_alike)
        tokens = tokens[:, begin:]
        if pool_type(text) == "eos":
            at = (tokens == eos_id(text)).int().argmax(dim=-1)
        else:
            at = tokens.argmax(dim=-1)
        x = self.embedded(tokens, begin)
        mask = text.attn_mask[begin:length, :length].to(x.dtype)
        if self.lean:
            x = transformer(x, mask, at)[:, 0]
        else:
            x = transformer(x, attn_mask=mask)
            x = x[torch.arange(x.shape[0], device=x.device), at]
        x = text.ln_final(x)
        projection = text.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    @property
    def begins_alike(self) -> bool:
        """Whether the first token is a constant of the weights, so that none is read."""
        return self.lean and bool(text_part(self.model).transformer.begins_alike)

    def embedded(self, tokens: torch.Tensor, begin: int = 0) -> torch.Tensor:
        """Tokens [batch, tokens] from position `begin` on as [batch, tokens, width]."""
        text = text_part(self.model)
        x = text.token_embedding(tokens)
        return x + text.positional_embedding[begin : begin + tokens.shape[1]].to(x.dtype)


def finished(
    model: nn.Module,
    spec: ModelSpec,
    side: Side,
    size: Sequence[int],
    normalize: bool,
    assumptions: Mapping[str, str],
) -> Tower:
    """The tower of a model that has its weights; `size` is the height and width of its images."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    module: nn.Module
    if side == "image":
        example = torch.zeros(2, 3, *size)
        dynamic, module = False, ImageTower(model, normalize)
    else:
        example = torch.zeros(2, spec.context_tokens, dtype=torch.int64)
        example[:, 1:3] = 1
        dynamic = takes_short_texts(model)
        module = TextTower(model, dynamic, normalize)
    return Tower(spec, side, module.eval(), example, dynamic, assumptions=assumptions)


def text_part(model: Any) -> Any:
    """The object that holds the text tower: `model.text`, or a plain CLIP itself."""
    return getattr(model, "text", model)


def pool_type(text: Any) -> str:
    """How a text tower picks its embedding: argmax (of the EOT id), eos, first, last, none."""
    return str(getattr(text, "text_pool_type", None) or getattr(text, "pool_type", ""))


def eos_id(text: Any) -> int:
    """The id of the end token for towers pooled at "eos"."""
    return int(getattr(text, "text_eos_id", None) or text.eos_id)


def takes_short_texts(model: Any) -> bool:
    """Whether cutting a text at its EOT is exact: causal, pooled there, without class token."""
    text = text_part(model)
    needed = ("token_embedding", "positional_embedding", "transformer", "ln_final")
    return (
        all(hasattr(text, name) for name in needed)
        and getattr(text, "attn_mask", None) is not None
        and getattr(text, "cls_emb", None) is None
        and not getattr(text, "use_pad_mask", False)
        and pool_type(text) in ("argmax", "eos")
    )
