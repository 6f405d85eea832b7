"""Whether texts may end behind the longest of a batch, shown on the text tower itself.

A tower that masks padding gives a text the same embedding however much of it follows, and
computes up to five times as much as it needs to. Whether it masks all of it (in every attention,
in the pooling, in the count of positions) is not read off its class: the same texts are embedded
padded to the context and cut, and have to agree.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from clipperf.inputs.tokenize import Tokenizer, text_lengths
from clipperf.nouns.model import Cut, TextIds, Tower

TOLERANCE = 1e-5
"""How far an embedding of a cut text may be from the padded one's, as a share of its length. Sums
of another order come to 1e-6 in fp32, as between two runs of other batches; padding that is read
once in one layer came to 1e-3 and more in every tower that was tried."""

SHORTEST = 2
"""The begin and the end of an empty text."""

CAUSAL = "each token attends to those before it, and the end token is read"


def with_cut(tower: Tower, tokenizer: Tokenizer) -> Tower:
    """A text tower that knows whether its texts may be cut; `tokenizer` makes them.

    What `Tower.dynamic_tokens` says already is by construction and is not proven again.
    """
    if tower.dynamic_tokens and tokenizer.eot_id is not None:
        return replace(tower, cut=Cut(True, CAUSAL))
    if tokenizer.spec.padding_side != "right" or tokenizer.spec.kind == "clips":
        why = f"the tokenizer pads on the {tokenizer.spec.padding_side}, its end is always read"
        return replace(tower, dynamic_tokens=False, cut=Cut(False, why))
    pad, eot = tokenizer.spec.pad_id, tokenizer.eot_id
    ids = TextIds(tokenizer.start_id, int(pad == 0) if eot is None else eot, 0, tokenizer.vocabulary)
    found = proven(tower.module, pad, tower.spec.context_tokens, ids)
    return replace(tower, dynamic_tokens=found.allowed, cut=found)


def proven(module: nn.Module, pad_id: int, context_tokens: int, ids: TextIds) -> Cut:
    """Whether a text tower gives cut texts the embeddings of padded ones, and why it is thought so.

    `module` maps int64 [batch, tokens] to float32 [batch, embed_dim], `context_tokens` are the
    most that it takes. It is run on seeded random texts of `ids`, of several lengths, in batches of
    texts of different lengths, padded with `pad_id`.
    """
    rows = _rows(pad_id, context_tokens, ids)
    lengths = torch.from_numpy(text_lengths(rows.numpy(), pad_id, ids.eot))
    farthest, shortest = 0.0, context_tokens
    try:
        with torch.inference_mode():
            padded = module(rows)
            for length in sorted(set(lengths.tolist()) - {context_tokens}):
                chosen = lengths <= length
                cut = module(rows[chosen, :length].contiguous())
                apart = (cut - padded[chosen]).norm(dim=-1) / padded[chosen].norm(dim=-1)
                farthest = max(farthest, float(apart.nan_to_num(nan=torch.inf).max()))
                shortest = min(shortest, length)
    except Exception as exc:  # noqa: BLE001 - a tower of one length may refuse others in any way
        reason = (str(exc).strip().splitlines() or [""])[0]
        return Cut(False, f"the tower does not run on cut texts: {type(exc).__name__}: {reason}"[:300])
    if shortest == context_tokens:
        return Cut(False, f"texts of {context_tokens} tokens have no padding to leave out")
    said = f"embeddings of cut and padded texts are up to {farthest:.1e} of their length apart"
    if not farthest <= TOLERANCE:
        return Cut(False, f"the tower reads padding: {said}")
    return Cut(True, f"down to {shortest} tokens, {said}")


def _rows(pad_id: int, context_tokens: int, ids: TextIds) -> torch.Tensor:
    """Texts from the shortest to all but one of the context's tokens, padded; int64."""
    lengths = {SHORTEST, context_tokens // 8, context_tokens // 3, context_tokens - 1}
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in sorted(n for n in lengths if SHORTEST <= n <= context_tokens) or [context_tokens]:
        row = torch.randint(ids.low, ids.high, (length,), generator=generator)
        row[row == pad_id] = ids.low + (ids.low == pad_id)
        if ids.sot is not None:
            row[0] = ids.sot
        row[-1] = ids.eot
        rows.append(nn.functional.pad(row, (0, context_tokens - length), value=pad_id))
    return torch.stack(rows)
