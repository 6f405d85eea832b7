"""A CLIP by name, and one half of it ready to run in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from clipperf.nouns.variant import Side


@dataclass(frozen=True)
class ModelSpec:
    """One CLIP: an architecture and where its weights come from.

    `id` is ``ARCHITECTURE::WEIGHTS``, for example ``ViT-B-32::laion2b_s34b_b79k``,
    ``ViT-B-32::random:0`` or ``ViT-B-32::checkpoint.safetensors``.
    `family` says who knows more of it (`models.family`). `pretrained` is a tag of that family's,
    ``random:SEED``, or the absolute path of a file. `source` is the absolute path of the file or
    folder that describes the architecture, None where its name says all; then `architecture` ends
    in a digest of that description.
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
    source: str | None = None

    @property
    def random_weights(self) -> bool:
        """Whether the weights are seeded noise: right for sizing, meaningless for accuracy."""
        return self.pretrained.split(":")[0] == "random"

    def parameters(self, side: Side) -> int:
        """The number of parameters of one tower; 0 where it is not known."""
        return (self.image_parameters if side == "image" else self.text_parameters) or 0


@dataclass(frozen=True)
class Sizes:
    """What a model is to take that its architecture does not say; None keeps to that.

    Pixels of the sides of an image, and tokens of a text.
    """

    image_px: int | None = None
    context_tokens: int | None = None


OWN_SIZES = Sizes()
"""Those that the architecture says."""


def resized(spec: ModelSpec, sizes: Sizes) -> ModelSpec:
    """A model at other sizes, which its id tells: ``ViT-B-32::openai@320px@64tokens``.

    Its parameters count as before, though it has more or fewer positions.
    """
    px = spec.image_px if sizes.image_px is None else sizes.image_px
    tokens = spec.context_tokens if sizes.context_tokens is None else sizes.context_tokens
    changed = [f"@{px}px"] if px != spec.image_px else []
    changed += [f"@{tokens}tokens"] if tokens != spec.context_tokens else []
    if not changed:
        return spec
    named = spec.id if "::" in spec.id else f"{spec.id}::{spec.pretrained}"
    return replace(spec, id=named + "".join(changed), image_px=px, context_tokens=tokens)


@dataclass(frozen=True)
class Similarity:
    """How a model was trained to compare an image with a text.

    exp(`logit_scale`) times the cosine, plus the `logit_bias` of a model that has one, is the
    logit; both are as in checkpoints, so the scale is a natural logarithm. `kind`: "softmax" over
    an image's texts (CLIP), "sigmoid" of each pair (SigLIP).
    """

    kind: Literal["softmax", "sigmoid"]
    logit_scale: float
    logit_bias: float | None = None


@dataclass(frozen=True)
class Tower:
    """One half of a CLIP, ready to run in PyTorch. Holds live objects; never serialised.

    `module` maps a float32 image batch [batch, 3, px, px] or an int64 token batch
    [batch, tokens] to float32 embeddings [batch, embed_dim].
    `example` is one valid input batch of 2. `dynamic_tokens` says whether a text batch cut at
    its longest EOT gives the same embeddings as the padded one (causal, EOT-pooled towers).
    `start_id` is the token that the tokenizer begins every text with, None where it has none.
    `assumptions` are what loading the weights had to assume, or to change: a name and words each.
    `similarity` is None where the weights are random or do not say.
    """

    spec: ModelSpec
    side: Side
    module: Any
    example: Any
    dynamic_tokens: bool
    start_id: int | None = None
    assumptions: Mapping[str, str] = field(default_factory=dict)
    similarity: Similarity | None = None


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

OTHER_VOCABULARY = TextIds(sot=None, eot=1, low=2, high=1000)
"""Ids that every tokenizer has: only their number matters for cost."""
