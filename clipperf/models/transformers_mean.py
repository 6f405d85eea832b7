"""A text tower of M-CLIP's: a transformer, the mean of its tokens, a linear layer with a bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipperf.models import open_clip
from clipperf.models.towers import finished
from clipperf.models.transformers_towers import additive, attended, counted, fill
from clipperf.nouns.model import ModelSpec, Tower


class MeanOfTokens(nn.Module):
    """As ``multilingual_clip.pt_multilingual_clip.MultilingualCLIP``, under the same names.

    `base` is the configuration of the transformer. Of padding nothing is seen, and nothing counts.
    """

    def __init__(self, base: Any, embed_dim: int, most_tokens: int) -> None:
        super().__init__()
        import transformers

        # Of what else there is, some looks at the mask's values, and so cannot be traced.
        base._attn_implementation = "eager"
        self.transformer: Any = transformers.AutoModel.from_config(base)
        self.LinearTransformation = nn.Linear(base.hidden_size, embed_dim)
        self.pad = int(base.pad_token_id)
        self.most_tokens = most_tokens
        self.counts = base.model_type != "bert"

    def encode_text(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
        """int64 [batch, tokens] to [batch, embed_dim]."""
        del normalize  # whoever calls does that
        dtype = self.LinearTransformation.weight.dtype
        seen = attended(tokens, self.pad, self.most_tokens)
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        found = self.transformer(
            tokens,
            attention_mask=additive(seen, dtype),
            # Left to itself transformers gathers both from tables.
            token_type_ids=torch.zeros_like(tokens),
            position_ids=(counted(tokens, self.pad, self.most_tokens) if self.counts else places),
        ).last_hidden_state
        weight = seen[:, :, None].to(dtype)
        mean = (found * weight).sum(dim=1) / weight.sum(dim=1)
        embeds: torch.Tensor = self.LinearTransformation(mean)
        return embeds


def build(
    spec: ModelSpec,
    base: dict[str, Any],
    normalize: bool,
    checkpoint: Path | None,
    assumptions: dict[str, str],
) -> Tower:
    """The text tower over a transformer that `base` configures, in fp32 on the CPU.

    Without `checkpoint` its weights are the seeded ones that `spec` names.

    Raises:
        WeightsError: the checkpoint cannot be read, or does not fit.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(**base)
    with open_clip.parameters_on_meta():
        model: Any = MeanOfTokens(config, spec.embed_dim, spec.context_tokens).eval()
    wanted = model.state_dict()
    model.transformer.pooler = None  # M-CLIP's files have one that nothing reads
    fill(model, wanted, spec, "text", checkpoint, spec.id)
    return finished(model, spec, "text", (), normalize, assumptions)
