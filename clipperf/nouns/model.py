"""A CLIP by name, and one half of it ready to run in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clipperf.nouns.variant import Side


@dataclass(frozen=True)
class ModelSpec:
    """One CLIP: an architecture and where its weights come from.

    `id` is ``ARCHITECTURE::WEIGHTS``, for example ``ViT-B-32::laion2b_s34b_b79k``,
    ``ViT-B-32::random:0`` or ``ViT-B-32::checkpoint.safetensors``.
    `family` says who knows more of it (`models.family`). `pretrained` is a tag of that family's,
    ``random:SEED``, or the absolute path of a file.
    """

    id: str
    family: str
    architecture: str
    pretrained: str
    image_px: int
    context_tokens: int
    embed_dim: int
    image_parameters: int | None = None
    text_parameters: int | None = None
    licence: str | None = None

    @property
    def random_weights(self) -> bool:
        """Whether the weights are seeded noise: right for sizing, meaningless for accuracy."""
        return self.pretrained.split(":")[0] == "random"

    def parameters(self, side: Side) -> int:
        """The number of parameters of one tower; 0 where it is not known."""
        return (self.image_parameters if side == "image" else self.text_parameters) or 0


@dataclass(frozen=True)
class Cut:
    """Whether texts may end behind the longest of a batch, and in words how that is known."""

    allowed: bool
    why: str


@dataclass(frozen=True)
class Tower:
    """One half of a CLIP, ready to run in PyTorch. Holds live objects; never serialised.

    `module` maps a float32 image batch [batch, 3, px, px] or an int64 token batch
    [batch, tokens] to float32 embeddings [batch, embed_dim].
    `example` is one valid input batch of 2. `dynamic_tokens` says whether a text batch cut behind
    its longest text gives the same embeddings as the padded one. A family says so of towers that
    are causal and pooled at the end token; of others an export finds out (`models.cutting`), and
    `cut` is what it found.
    `start_id` is the token that the tokenizer begins every text with, None where it has none.
    `assumptions` are what loading the weights had to assume, or to change: a name and words each.
    """

    spec: ModelSpec
    side: Side
    module: Any
    example: Any
    dynamic_tokens: bool
    start_id: int | None = None
    assumptions: Mapping[str, str] = field(default_factory=dict)
    cut: Cut | None = None


@dataclass(frozen=True)
class TextIds:
    """Which token ids a synthetic text may use: `sot`, then ids in [low, high), then `eot`.

    `sot` is None for tokenizers without a start token. The defaults of CLIP's own tokenizer are
    `CLIP_IDS`; its `eot` is the largest id, which is how the towers find where to pool.
    """

    sot: int | None
    eot: int
    low: int
    high: int


CLIP_IDS = TextIds(sot=49406, eot=49407, low=1, high=49406)
