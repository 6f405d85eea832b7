"""Many texts in few, short, full batches: what `ClipModel.encode_texts` does around its engine.

A causal tower that pools at EOT gives a text the same embedding whatever follows its EOT, and one
that masks padding whatever there is of it, so a batch is cut at its longest text. For causal towers
in ONNX Runtime's fp32 the result is the same bit for bit, and a row does not depend on its
neighbours. Graphs in "int8" scale a batch as a whole, so there an embedding depends on the texts
and the padding beside it, cut or not; "int8-row" scales each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from clipperf.engines.contract import SHORTEST_TOKENS
from clipperf.errors import UsageError
from clipperf.inputs.tokenize import Tokenizer, eot_lengths, text_lengths
from clipperf.nouns.artifact import CutAt
from clipperf.nouns.cell import Engine
from clipperf.serve.streams import run_all, spread

WINDOW, WINDOW_TOKENS = 8192, 1 << 21
"""Texts that are tokenised and sorted together, and their tokens: 16 MiB at most."""

RUN_COST_TOKENS = 16
"""What one more run costs beside its tokens, in tokens: reading the weights once, and overhead."""


Lengths = Callable[[np.ndarray], np.ndarray]


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, engine: Engine, batch_size: int, cut: CutAt | None
) -> np.ndarray:
    """Embed one or more texts: float32 [texts, embed_dim], in their order.

    Equal texts are embedded once. Where `cut` says where they end, texts are sorted by length and
    what follows a batch's longest is left out; None: they are run as they come.

    Raises:
        UsageError: an element is not a string, or too long (`clean.MAX_CHARACTERS`).
    """
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"text {i} is {type(text).__name__}, expected str")
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    unique = list(place)
    ends = ends_of(tokenizer, cut)
    batch_size = spread(engine, len(unique), batch_size)
    window = _window(tokenizer)
    parts = [
        _run(tokenizer(unique[i : i + window]), engine, batch_size, ends)
        for i in range(0, len(unique), window)
    ]
    embedded = np.concatenate(parts)
    return embedded if len(unique) == len(texts) else embedded[[place[text] for text in texts]]


def embed(
    tokens: np.ndarray, tokenizer: Tokenizer, engine: Engine, batch_size: int, cut: CutAt | None
) -> np.ndarray:
    """Embed one or more texts that are int64 [texts, context_tokens]; see `encode`."""
    ends = ends_of(tokenizer, cut)
    batch_size, window = spread(engine, len(tokens), batch_size), _window(tokenizer)
    parts = [
        _run(tokens[i : i + window], engine, batch_size, ends)
        for i in range(0, len(tokens), window)
    ]
    return np.concatenate(parts)


def ends_of(tokenizer: Tokenizer, cut: CutAt | None) -> Lengths | None:
    """What tells how long the texts in rows of tokens are; None where nothing is cut."""
    if cut == "padding":
        return partial(text_lengths, pad_id=tokenizer.spec.pad_id)
    if cut == "eot" and tokenizer.eot_id is not None:
        return partial(eot_lengths, eot_id=tokenizer.eot_id)
    return None


def _window(tokenizer: Tokenizer) -> int:
    """How many texts are sorted together."""
    return min(WINDOW, max(1, WINDOW_TOKENS // tokenizer.context_tokens))


def _run(tokens: np.ndarray, engine: Engine, batch_size: int, ends: Lengths | None) -> np.ndarray:
    """Embed int64 [n, context_tokens]: float32 [n, embed_dim]. Without `ends` nothing is cut."""
    if ends is None:
        starts = range(0, len(tokens), batch_size)
        return np.concatenate(run_all(engine, (tokens[i : i + batch_size] for i in starts)))
    lengths = given_lengths(engine, ends(tokens))
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


def given_lengths(engine: Engine, lengths: np.ndarray) -> np.ndarray:
    """How many tokens of texts of `lengths` an engine is given: int64 [batch].

    Those of an engine that each shape costs something are brought to the next of a few lengths.
    """
    found: np.ndarray = np.maximum(lengths, getattr(engine, "min_tokens", SHORTEST_TOKENS))
    usual = np.array(getattr(engine, "token_buckets", ()), np.int64)
    if not usual.size:
        return found
    place = np.searchsorted(usual, found)
    return np.where(place < usual.size, usual[np.minimum(place, usual.size - 1)], found)


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
