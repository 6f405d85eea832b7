"""Whether a text tower knows every token that its tokenizer may give it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from clipperf.errors import WeightsError
from clipperf.inputs.tokenize import CONFIG_FILE, Tokenizer
from clipperf.system.files import write_json

TABLES = ("token_embedding", "word_embeddings", "embed_tokens", "shared")
"""What open_clip and transformers call the table of a text tower's tokens."""


def fitted(model: str, module: Any, folder: Path) -> Tokenizer:
    """The tokenizer in a folder; of tokens that were added to it beyond the tower's, it is told.

    Raises:
        WeightsError: ordinary texts have tokens that the tower does not know.
    """
    tokenizer = Tokenizer.from_folder(folder)
    known = known_by(module)
    if known is None or tokenizer.reach() <= known:
        return tokenizer
    usual = tokenizer.reach(added=False)
    if usual > known:
        raise WeightsError(
            f"the tokenizer of {model} has tokens up to {usual - 1}, and its text tower knows "
            f"those up to {known - 1} (vocab_size {known}): one of them is another model's"
        )
    told = dataclasses.replace(tokenizer.spec, ids_below=known)
    write_json(folder / CONFIG_FILE, told.to_json())
    return Tokenizer.from_folder(folder)


def known_by(module: Any) -> int | None:
    """How many tokens a text tower in PyTorch has a row for; None where that is not found."""
    from torch import nn

    tables = [
        part.num_embeddings
        for name, part in module.named_modules()
        if isinstance(part, nn.Embedding) and name.rpartition(".")[2] in TABLES
    ]
    return min(tables, default=None)
