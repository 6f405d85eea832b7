"""Whether a text tower knows every token that its tokenizer may give it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from clipperf.errors import WeightsError
from clipperf.inputs.tokenize import CONFIG_FILE, Tokenizer
from clipperf.system.files import write_json

TABLES = ("token_embedding", "word_embeddings", "embed_tokens", "shared")
"""What open_clip and transformers call the table of a text tower's tokens."""

SENTINEL = re.compile("▁?<extra_id_[0-9]+>")
"""What T5's tokenizers have beyond its words, as tokens added to them or among their pieces: those
of SigLIP's first models have 100, of which their text towers know none."""

STRANGE = "𐎠"
"""A letter of Old Persian, which no vocabulary has: it becomes the token of what is unknown, or the
bytes that it consists of."""


def fitted(model: str, module: Any, folder: Path) -> Tokenizer:
    """The tokenizer in a folder; of tokens that were added to it beyond the tower's, it is told.

    Raises:
        WeightsError: ordinary texts have tokens that the tower does not know.
    """
    tokenizer = Tokenizer.from_folder(folder)
    known = known_by(module)
    if known is None or _all(tokenizer) <= known:
        return tokenizer
    usual = _usual(tokenizer)
    if usual > known:
        raise WeightsError(
            f"the tokenizer of {model} has tokens up to {usual - 1}, and its text tower knows "
            f"those up to {known - 1} (vocab_size {known}): one of them is another model's"
        )
    told = dataclasses.replace(tokenizer.spec, ids_below=known)
    write_json(folder / CONFIG_FILE, told.to_json())
    return Tokenizer.from_folder(folder)


def _all(tokenizer: Tokenizer) -> int:
    """The ids of all tokens lie below this."""
    return 1 + max(*tokenizer._plain.get_vocab().values(), tokenizer._last_special)


def _usual(tokenizer: Tokenizer) -> int:
    """The ids of ordinary texts lie below this: not those that only a special token's name has."""
    plain = tokenizer._plain
    special = {each.content for each in plain.get_added_tokens_decoder().values() if each.special}
    words = plain.get_vocab(with_added_tokens=False).items()
    usual = [i for word, i in words if word not in special and not SENTINEL.fullmatch(word)]
    return 1 + max(*usual, *plain.encode(STRANGE).ids, tokenizer._last_special)


def known_by(module: Any) -> int | None:
    """How many tokens a text tower in PyTorch has a row for; None where that is not found."""
    from torch import nn

    tables = [
        part.num_embeddings
        for name, part in module.named_modules()
        if isinstance(part, nn.Embedding) and name.rpartition(".")[2] in TABLES
    ]
    return min(tables, default=None)
