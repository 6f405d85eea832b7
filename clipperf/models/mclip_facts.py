"""What is known of M-CLIP's models: what their text towers are made of, and whose images they are.

A repository of theirs says so in its `config.json`: `modelBase`, and the width in `numDims`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.errors import WeightsError
from clipperf.models.transformers_config import CONFIG, read_settings
from clipperf.system.targets import expanded

ORGANISATION = "M-CLIP"
MODEL_TYPE = "M-CLIP"
"""`model_type` in the configuration of a repository, which names its base and its width."""

BASES: dict[str, dict[str, Any]] = {
    "xlm-roberta-large": {
        "model_type": "xlm-roberta",
        "vocab_size": 250002,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    "sentence-transformers/LaBSE": {
        "model_type": "bert",
        "vocab_size": 501153,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
}
"""Configurations of the transformers, as their repositories have them."""

TEACHERS = {
    512: "ViT-B-32::openai",
    640: "ViT-B-16-plus-240::laion400m_e32",
    768: "ViT-L-14::openai",
}
"""The model whose image tower belongs to text embeddings of a width."""


@dataclass(frozen=True)
class Student:
    """A text tower: the transformer that it is made of, the width of its embeddings, its size."""

    base: str
    embed_dim: int
    parameters: int


STUDENTS = {
    f"{ORGANISATION}/LABSE-Vit-L-14": Student("sentence-transformers/LaBSE", 768, 470926848),
    f"{ORGANISATION}/XLM-Roberta-Large-Vit-B-32": Student("xlm-roberta-large", 512, 559365632),
    f"{ORGANISATION}/XLM-Roberta-Large-Vit-B-16Plus": Student("xlm-roberta-large", 640, 559496832),
    f"{ORGANISATION}/XLM-Roberta-Large-Vit-L-14": Student("xlm-roberta-large", 768, 559628032),
}


def base_of(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration of the transformer under a text tower: one that is known, or a folder's.

    Raises:
        WeightsError: it is neither.
    """
    name = str(config.get("modelBase"))
    if name in BASES:
        return BASES[name]
    for place in (folder / name, expanded(name)):
        if (place / CONFIG).is_file():
            return read_settings(place / CONFIG) or {}
    raise WeightsError(
        f"{folder / CONFIG}: modelBase is {name!r}; known are {', '.join(BASES)}, or a folder with "
        f"a {CONFIG} of its own"
    )


def most_tokens(base: dict[str, Any]) -> int:
    """The longest text: RoBERTa's positions begin behind that of the padding."""
    reserved = 0 if base["model_type"] == "bert" else base["pad_token_id"] + 1
    return int(base["max_position_embeddings"]) - reserved
