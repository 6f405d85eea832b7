"""Many texts in few, short, full batches: what `ClipModel.encode_texts` does around its engine.

A causal tower that pools at EOT gives a text the same embedding whatever follows its EOT, and one
that masks padding however much of it follows, so a batch is cut at its longest text. In ONNX
Runtime's fp32 the result of a causal tower is the same bit for bit, and a row does not depend on
its neighbours; behind a mask of padding it is the same up to rounding. Graphs in "int8" scale a
batch as a whole, so there an embedding depends on the texts and the padding beside it, cut or not;
"int8-row" scales each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from clipperf.errors import UsageError
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.cell import Engine
from clipperf.serve.streams import run_all, spread

WINDOW, WINDOW_TOKENS = 8192, 1 << 21
"""Texts that are tokenised and sorted together, and their tokens: 16 MiB at most."""

RUN_COST_TOKENS = 16
"""What one more run costs beside its tokens, in tokens: reading the weights once, and overhead."""

SHORTEST_TOKENS = 3
"""Begin and end of an empty text, and one more: behind a begin that is a constant a single token
would be multiplied in another order. An engine that needs longer input has `min_tokens`."""


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, engine: Engine, batch_size: int, cut: bool
) -> np.ndarray:
    """Embed one or more texts: float32 [texts, embed_dim], in their order.

    Equal texts are embedded once. `cut` sorts texts by length and leaves out the padding behind
    a batch's longest; it is only for towers with a dynamic token axis.

    Raises:
        UsageError: an element is not a string, or too long (`clean.MAX_CHARACTERS`).
    """
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"text {i} is {type(text).__name__}, expected str")
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    unique = list(place)
    batch_size = spread(engine, len(unique), batch_size)
    window = min(WINDOW, max(1, WINDOW_TOKENS // tokenizer.context_tokens))
    parts = [
        _run(unique[i : i + window], tokenizer, engine, batch_size, cut)
        for i in range(0, len(unique), window)
    ]
    embedded = np.concatenate(parts)
    return embedded if len(unique) == len(texts) else embedded[[place[text] for text in texts]]


def _run(
    texts: Sequence[str], tokenizer: Tokenizer, engine: Engine, batch_size: int, cut: bool
) -> np.ndarray:
    """Embed texts that are all different: float32 [n, embed_dim]."""
    tokens = tokenizer(texts)
    if not cut:
        starts = range(0, len(tokens), batch_size)
        return np.concatenate(run_all(engine, (tokens[i : i + batch_size] for i in starts)))
    lengths = lengths_for(engine, tokenizer, tokens)
    order = np.argsort(lengths, kind="stable")
    tokens, lengths = tokens[order], lengths[order]
    trimmed = (
        np.ascontiguousarray(tokens[batch, : lengths[batch.stop - 1]])
        for batch in batches(lengths, batch_size)
    )
    embedded = np.concatenate(run_all(engine, trimmed))
    result = np.empty_like(embedded)
    result[order] = embedded
    return result


def lengths_for(engine: Engine, tokenizer: Tokenizer, tokens: np.ndarray) -> np.ndarray:
    """How many tokens of each row [batch, context_tokens] an engine has to be given: int64."""
    shortest = getattr(engine, "min_tokens", SHORTEST_TOKENS)
    found: np.ndarray = np.clip(tokenizer.lengths(tokens), shortest, tokens.shape[1])
    return found


def batches(lengths: np.ndarray, batch_size: int) -> Iterator[slice]:
    """Split ascending lengths into batches of at most `batch_size`.

    Batches are full, except where the padding that shorter texts would carry beside longer ones
    costs more than one more run (`RUN_COST_TOKENS`).
    """
    start = 0
    while start < len(lengths):
        inside = lengths[start : start + batch_size]
        saved = np.arange(1, len(inside) + 1) * (inside[-1] - inside)
        best = int(saved.argmax())
        stop = start + (best + 1 if saved[best] > RUN_COST_TOKENS else len(inside))
        yield slice(start, stop)
        start = stop
