"""Whether texts may be cut where they end, asked of the tower itself.

A causal tower that is pooled at its end token never looks behind it. Others see padding, or have a
mask that hides it; which of the two cannot be read off a module, but off its embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipperf.inputs.tokenize import Tokenizer, eot_lengths, text_lengths
from clipperf.nouns.artifact import Cut, CutAt
from clipperf.nouns.model import Tower

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = 1e-5
"""How far embeddings of cut texts may be from those of padded ones, as a share of the largest
value: sums of other lengths round differently, which moves fp32 by 1e-6. Padding that is seen
moves embeddings by a hundredth and more."""

SENTENCE = "a small brown dog runs over the wet grass and a man in a red coat looks at it "
LENGTHS = (0, 1, 4, 9, 18, 500)
"""The texts of the proof, in words: from an empty one to one that no context holds."""


def cut_of(tower: Tower, tokenizer: Tokenizer) -> Cut:
    """Where the texts of a tower in PyTorch may be cut, and what shows it."""
    if tower.dynamic_tokens:
        return Cut("eot", "causal, and pooled at the end token")
    pad = tokenizer.spec.pad_id
    if tokenizer.spec.padding_side == "left":
        return Cut(None, "padding comes before the text")
    words = SENTENCE.split() * 50
    texts = [" ".join(words[:length]) for length in LENGTHS]
    tokens = tokenizer(texts)
    found = shown(tower.module, tokens, text_lengths(tokens, pad))
    if found.at is None and tokenizer.eot_id is not None:
        # Where texts are padded with their end token, that one is no padding.
        ended = shown(tower.module, tokens, eot_lengths(tokens, tokenizer.eot_id), "eot")
        return found if ended.at is None else ended
    return found


def shown(module: Any, tokens: np.ndarray, lengths: np.ndarray, at: CutAt = "padding") -> Cut:
    """Whether texts may be cut where they end, asked of a text tower in PyTorch.

    `tokens` are texts of several `lengths`, int64 [texts, context_tokens], padded; `at` says how
    these were counted.
    """
    try:
        difference = _difference(module, tokens, lengths)
    except Exception as exc:  # noqa: BLE001 - what has one length may refuse others in any way
        said = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        return Cut(None, f"the tower takes no cut texts: {said[:200]}")
    said = f"{len(tokens)} texts, cut and padded, differ by {difference:.1e} of the largest value"
    return Cut(at if difference <= TOLERANCE else None, said)


def _difference(module: Any, tokens: np.ndarray, lengths: np.ndarray) -> float:
    """The largest difference between embeddings of padded texts and of cut ones, as a share.

    Texts are cut alone and beside longer ones.
    """
    import torch

    rows = torch.from_numpy(tokens)
    with torch.inference_mode():
        padded = torch.cat([module(row) for row in rows.split(1)])
        alone = [
            module(row[:, :length])
            for row, length in zip(rows.split(1), lengths.tolist(), strict=True)
        ]
        shorter = lengths < lengths.max()
        together = module(rows[shorter][:, : int(lengths[shorter].max())])
    apart = torch.cat([torch.cat(alone) - padded, together - padded[shorter]])
    return float(apart.abs().max() / padded.abs().max())
