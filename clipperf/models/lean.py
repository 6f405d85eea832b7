"""open_clip's towers without what their embedding never reads, for export.

An embedding is read off one token: the class token of a ViT, the EOT of a text, the mean that
stands before a ResNet's map. The last attention still mixes all tokens into that one, but the rest
of its block treats every token by itself: queries, output projection and MLP of all the others
are computed for nothing. That is up to ten twelfths of a block, 1/15 of ViT-B-32 and 1/38 of
ViT-H-14. What is left is computed as before; only the order of sums in a matrix product of fewer
rows may differ.

Behind a causal mask the first token attends to itself alone. Where a tokenizer begins every text
with the same one, its keys and values are constants of the weights: 1/8 of a text of 8 tokens.

Attention is also laid out anew in every block: heads are split and joined by one transposition
each, where PyTorch's own goes by way of [tokens, batch, width].
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from clipperf.models.towers import ImageTower, TextTower, pool_type, text_part


def make_lean(tower: nn.Module, start_id: int | None = None) -> None:
    """Change an `ImageTower` or `TextTower` in place; any other module stays as it is.

    `start_id` is the token that every text begins with, None where there is no such token. Blocks
    and poolings that are not open_clip's plain ones, and towers of other libraries, stay as they
    are. Parameters keep their names; the last block's projections get more.
    """
    if not isinstance(tower, TextTower | ImageTower):
        return
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    if isinstance(tower, TextTower):
        part, row = text_part(tower.model), None
        if getattr(part, "use_pad_mask", False) or getattr(part, "correct_cls_mask", False):
            return  # a row of their masks may allow nothing at all
        if getattr(part, "cls_emb", None) is not None:
            row = -1
        elif not tower.short:
            row = {"first": 0, "last": -1}.get(pool_type(part))
    else:
        part, row = getattr(tower.model, "visual", None), None
        if isinstance(part, ModifiedResNet):
            part.attnpool = LeanPool(part.attnpool).eval()
        if not isinstance(part, VisionTransformer):
            return
        if part.pool_type == "tok" and part.attn_pool is None:
            row = 0
    if _is_plain(getattr(part, "transformer", None)):
        part.transformer = LeanTransformer(part.transformer, row).eval()
        if isinstance(tower, TextTower) and tower.short:
            tower.lean = True
            # Pooled at an id that a row lacks, open_clip reads the first token.
            if start_id is not None and pool_type(part) == "argmax":
                token = torch.tensor([[start_id]], device=part.positional_embedding.device)
                part.transformer.begin_with(tower.embedded(token))


def first_token(tower: nn.Module, start_id: int | None) -> int | None:
    """The token that a lean tower takes for the first of every text; None where it reads it."""
    return start_id if isinstance(tower, TextTower) and tower.begins_alike else None


def _is_plain(transformer: Any) -> bool:
    """Whether all blocks are of the kind that `LeanTransformer` computes."""
    from open_clip.transformer import ResidualAttentionBlock, Transformer

    return type(transformer) is Transformer and all(
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and _attends_plainly(block.attn)
        for block in transformer.resblocks
    )


def _attends_plainly(attention: Any) -> bool:
    """Whether an attention is PyTorch's own, or since open_clip 4 its like, without additions."""
    if attention.in_proj_weight is None:
        return False
    if isinstance(attention, nn.MultiheadAttention):
        return attention.bias_k is None and not attention.add_zero_attn
    from open_clip.transformer import Attention

    parts = ("ln_q", "ln_k", "ln_inner")
    return (
        type(attention) is Attention
        and attention.logit_scale is None
        and attention.head_scale is None
        and all(isinstance(getattr(attention, part), nn.Identity) for part in parts)
    )


class LeanTransformer(nn.Module):
    """The blocks of open_clip's ``Transformer``, under the same names.

    `row` is the token that embeddings are read off: the first (0) or the last (-1); None: all, or
    what `forward` is told.
    """

    def __init__(self, transformer: Any, row: int | None) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(map(LeanBlock, transformer.resblocks))
        self.row = row
        # Parts of a weight that the graph would have to cut at are weights of their own.
        attention = transformer.resblocks[-1].attn
        self.last_queries = _part_of(attention, 0, 1)
        self.last_keys_values = _part_of(attention, 1, 3)

    @property
    def _blocks(self) -> list[LeanBlock]:
        return cast(list[LeanBlock], list(self.resblocks))

    @torch.no_grad()
    def begin_with(self, token: torch.Tensor) -> None:
        """Let `token`, embedded as [1, 1, width], be the first of every causal sequence.

        It attends to itself alone, so what it is in every block is a constant of the weights.
        """
        for block in self._blocks:
            projected = block.projected(token)
            _, key, value = projected
            token = block.finished(token, projected)
            block.first_key = nn.Parameter(key.clone(), requires_grad=False)
            block.first_value = nn.Parameter(value.clone(), requires_grad=False)

    @property
    def begins_alike(self) -> bool:
        """Whether `forward` is given sequences without their first token."""
        return self._blocks[0].first_key is not None

    def get_cast_dtype(self) -> torch.dtype:
        """The weights' dtype, which open_clip's text tower asks for."""
        dtype: torch.dtype = self._blocks[0].attn.in_proj_weight.dtype
        return dtype

    def forward(
        self,
        x: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        at: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[batch, tokens, width] to the same, or to [batch, 1, width] where one token is read.

        `attn_mask` is added to scores: [tokens, tokens] or [batch * heads, tokens, tokens]. `at`
        says which token of each batch row is read, int64 [batch], in place of `row`. Where all
        sequences begin alike, `x` and `at` begin behind that token; the mask has a column for it.
        """
        mask = None if attn_mask is None else attn_mask.to(x.dtype)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (x.shape[0], -1))
        *blocks, last = self._blocks
        for block in blocks:
            x = block(x, mask)
        if at is not None:
            read = x[torch.arange(x.shape[0], device=x.device), at][:, None]
            mask = None if mask is None else mask[at][:, None, None]
        elif self.row is not None:
            chosen = slice(1) if self.row == 0 else slice(-1, None)
            read = x[:, chosen]
            mask = None if mask is None else mask[..., chosen, :]
        else:
            out: torch.Tensor = last(x, mask)
            return out
        queries = self.last_queries(last.ln_1(read))
        keys, values = self.last_keys_values(last.ln_1(x)).chunk(2, dim=-1)
        return last.finished(read, (queries, keys, values), mask, twice=at is not None)


class LeanBlock(nn.Module):
    """One of open_clip's ``ResidualAttentionBlock``, under the same names.

    `first_key` and `first_value`, [1, 1, width], are those of a first token that is the same in
    every sequence, None where `forward` is given all tokens.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.attn, self.mlp = block.attn, block.mlp
        self.ln_1, self.ls_1 = block.ln_1, block.ls_1
        self.ln_2, self.ls_2 = block.ln_2, block.ls_2
        self.first_key: nn.Parameter | None
        self.first_value: nn.Parameter | None
        self.register_parameter("first_key", None)
        self.register_parameter("first_value", None)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """[batch, tokens, width] to the same."""
        return self.finished(x, self.projected(x), mask)

    def projected(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values of all tokens, [batch, tokens, width] each."""
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        return functional.linear(self.ln_1(x), weight, bias).chunk(3, dim=-1)

    def finished(
        self,
        read: torch.Tensor,
        projected: tuple[torch.Tensor, ...],
        mask: torch.Tensor | None = None,
        twice: bool = False,
    ) -> torch.Tensor:
        """The output of the block at the tokens `read`, [batch, read, width].

        `projected` are queries, keys and values. `twice`: the one query is asked two times. ONNX
        Runtime multiplies one row in an order that depends on the number of keys, which must not
        matter to the embedding of a text; two rows it does not.
        """
        q, k, v = projected
        if self.first_key is not None and self.first_value is not None:
            k = torch.cat([self.first_key.expand(k.shape[0], -1, -1), k], dim=1)
            v = torch.cat([self.first_value.expand(v.shape[0], -1, -1), v], dim=1)
        if twice:  # not expanded: OpenVINO's quantised graphs lose that before a reshape
            q = torch.cat([q, q], dim=1)
        mixed = _mixed(q, k, v, self.attn.num_heads, mask)
        if twice:
            mixed = mixed[:, :1]
        x = read + self.ls_1(self.attn.out_proj(mixed))
        out: torch.Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return out


class LeanPool(nn.Module):
    """The attention pool at the end of CLIP's ResNets, queried by the mean alone."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.positional_embedding = pool.positional_embedding
        self.q_proj, self.k_proj, self.v_proj = pool.q_proj, pool.k_proj, pool.v_proj
        self.c_proj = pool.c_proj
        self.num_heads = pool.num_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] to [batch, embed_dim]."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        mixed = _mixed(
            self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x), self.num_heads, mask=None
        )
        pooled: torch.Tensor = self.c_proj(mixed)[:, 0]
        return pooled


def _part_of(attention: Any, first: int, last: int) -> nn.Linear:
    """The projection to queries (0), keys (1) and values (2), from `first` to before `last`."""
    width, bias = attention.out_proj.in_features, attention.in_proj_bias
    part = slice(first * width, last * width)
    linear = nn.Linear(width, part.stop - part.start, bias is not None, device="meta")
    linear.weight = nn.Parameter(attention.in_proj_weight[part], requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias[part], requires_grad=False)
    return linear


def _mixed(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of `heads` heads (Vaswani et al. 2017), [batch, read, width]."""
    # Written out: torch's exporter would transpose the keys twice, by shapes found as it runs.
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5).transpose(1, 2) @ k.permute(0, 2, 3, 1)
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(dim=-1) @ v.transpose(1, 2)).transpose(1, 2).flatten(2)
