"""Which texts share a batch, where it is cut, and that neither shows in the embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clipperf
from clipperf.engines.contract import BATCH_BUCKETS, TOKEN_BUCKETS
from clipperf.engines.onnxruntime import open_session
from clipperf.errors import UsageError
from clipperf.inputs.tokenize import Tokenizer, eot_lengths
from clipperf.serve import texts as text_batches
from clipperf.serve.model import ClipModel
from clipperf.serve.streams import filled, run_all, spread
from clipperf.serve.texts import RUN_COST_TOKENS, batches, encode, given_lengths
from clipperf.system.store import read_manifest

CAPTION = "a photo of the red apple on table with two small dogs near an old wooden house"
WORDS = CAPTION.split()


class Recorder:
    """An engine whose embedding of a row is its tokens before the padding, summed and counted."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def run(self, array: np.ndarray) -> np.ndarray:
        self.arrays.append(array)
        return np.stack([array.sum(1), (array > 0).sum(1)], 1).astype(np.float32)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def tokenizer(sample_artifact: Path) -> Tokenizer:
    return Tokenizer.from_folder(sample_artifact)


def captions(n: int, seed: int, longest: int = 90) -> list[str]:
    """Random texts of 0 to `longest` words; some are cut at the context, some are equal."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, rng.integers(2, longest), n)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def split(lengths: list[int], batch_size: int) -> list[list[int]]:
    array = np.array(lengths)
    return [array[part].tolist() for part in batches(array, batch_size)]


def test_batches_by_hand() -> None:
    assert split([], 4) == []
    assert split([7], 4) == [[7]]
    assert split([2, 2, 3], 2) == [[2, 2], [3]]
    # Two tokens of padding are cheaper than a run; 20 x 69 of them are not.
    assert split([5, 5, 6, 6], 4) == [[5, 5, 6, 6]]
    assert split([8] * 20 + [77] * 20, 32) == [[8] * 20, [77] * 20]
    # One long text leaves the others alone, and the best place is found, not the first.
    assert split([4, 4, 5, 5, 70], 8) == [[4, 4, 5, 5], [70]]
    assert split([4] * 3 + [5 + RUN_COST_TOKENS] * 3, 6)[0] == [4] * 3


@given(
    st.lists(st.integers(2, 77), max_size=200).map(sorted),
    st.integers(1, 40),
)
def test_batches_are_whole_and_full_unless_padding_costs_more(
    lengths: list[int], batch_size: int
) -> None:
    parts = split(lengths, batch_size)
    assert [length for part in parts for length in part] == lengths
    assert all(1 <= len(part) <= batch_size for part in parts)
    start = 0
    for part in parts:
        # As many as would fit; where fewer were taken, the last of these is that much longer.
        full = lengths[start : start + batch_size]
        if len(part) < len(full):
            assert len(part) * (full[-1] - part[-1]) > RUN_COST_TOKENS
        start += len(part)


def test_equal_texts_run_once_and_come_back_in_place(tokenizer: Tokenizer) -> None:
    texts = ["a dog", "", "an old wooden house", "a dog", "", "two dogs", "a dog"]
    engine = Recorder()
    found = encode(texts, tokenizer, engine, 2, cut="eot")
    assert sum(len(array) for array in engine.arrays) == 4
    padded = tokenizer(texts)
    np.testing.assert_array_equal(found[:, 0], padded.sum(1))
    np.testing.assert_array_equal(found[:, 1], (padded > 0).sum(1))


def test_each_batch_ends_at_its_longest_text(tokenizer: Tokenizer) -> None:
    texts = captions(70, seed=1)
    engine = Recorder()
    encode(texts, tokenizer, engine, 8, cut="eot")
    assert tokenizer.eot_id is not None
    for array in engine.arrays:
        assert array.dtype == np.int64 and array.flags.c_contiguous
        assert eot_lengths(array, tokenizer.eot_id).max() == array.shape[1]
        assert (array == tokenizer.eot_id).any(1).all()
    widths = [array.shape[1] for array in engine.arrays]
    assert widths == sorted(widths) and len(set(widths)) > 3
    assert sum(array.size for array in engine.arrays) < 1.2 * sum(
        eot_lengths(tokenizer(sorted(set(texts))), tokenizer.eot_id)
    )


def test_engines_may_need_longer_texts(tokenizer: Tokenizer) -> None:
    engine = Recorder()
    engine.min_tokens = 8  # type: ignore[attr-defined]
    texts = ["a dog", "", "two small dogs on a table near an old wooden house"]
    found = encode(texts, tokenizer, engine, 2, cut="eot")
    assert [array.shape for array in engine.arrays] == [(2, 8), (1, 13)]
    np.testing.assert_array_equal(found[:, 0], tokenizer(texts).sum(1))


def test_engines_with_graphs_are_given_few_batches_and_no_engine_too_large_ones() -> None:
    engine = Recorder()
    engine.batch_buckets, engine.max_batch = (1, 2, 4), 5  # type: ignore[attr-defined]
    rows = [np.full((n, 1), n) for n in (1, 2, 3, 4, 5)]
    found = run_all(engine, rows)
    assert [len(array) for array in engine.arrays] == [1, 2, 4, 4, 5]
    assert [len(part) for part in found] == [1, 2, 3, 4, 5], "what was filled in is cut off"
    assert engine.arrays[2].tolist() == [[3], [3], [3], [3]]
    assert filled(rows[2], ()) is rows[2] and filled(rows[4], (1, 2, 4)) is rows[4]
    assert (spread(engine, 100, 32), spread(engine, 100, 4)) == (5, 4)
    assert spread(Recorder(), 100, 32) == 32


@pytest.mark.parametrize(("sizes", "least", "most"), [(BATCH_BUCKETS, 0.98, 1.4), ((), 0.0, 1.0)])
def test_graphs_are_replayed_whatever_number_of_texts_a_call_brings(
    sizes: tuple[int, ...], least: float, most: float
) -> None:
    """1 to 32 captions a call, 3,000 calls, the latest 16 shapes kept, as the TensorRT engine's."""
    chance, engine = np.random.default_rng(0), Recorder()
    engine.token_buckets = TOKEN_BUCKETS  # type: ignore[attr-defined]
    kept: dict[tuple[int, int], None] = {}
    runs = replayed = rows = given = 0
    for _ in range(3000):
        words = np.clip(chance.normal(15, 4, chance.integers(1, 33)).round().astype(int), 5, 77)
        lengths = np.sort(given_lengths(engine, words))
        for part in batches(lengths, 32):
            count = part.stop - part.start
            size = len(filled(np.empty(count), sizes))
            shape = (size, int(lengths[part.stop - 1]))
            runs, rows, given = runs + 1, rows + count, given + size
            replayed += shape in kept
            kept.pop(shape, None)
            kept[shape] = None
            if len(kept) > 16:
                del kept[next(iter(kept))]
    assert replayed / runs >= least and given / rows <= most
    assert sizes or replayed / runs < 0.55, "or the buckets would not be needed"


def test_engines_with_graphs_are_given_few_lengths(tokenizer: Tokenizer) -> None:
    """2, 5 and 13 tokens; those above the last length stay as they are, as far as rows go."""
    texts = ["a dog", "", "two small dogs on a table near an old wooden house", "word " * 90]
    lengths = eot_lengths(tokenizer(texts), tokenizer.eot_id or 0)
    assert lengths.tolist() == [4, 2, 13, tokenizer.context_tokens]
    engine = Recorder()
    engine.token_buckets = (3, 16)  # type: ignore[attr-defined]
    assert given_lengths(engine, np.array([1, 3, 4, 16, 17, 77])).tolist() == [3, 3, 16, 16, 17, 77]
    found = encode(texts, tokenizer, engine, 1, cut="eot")
    assert [array.shape for array in engine.arrays] == [(1, 3), (1, 16), (1, 16), (1, 77)]
    np.testing.assert_array_equal(found[:, 0], tokenizer(texts).sum(1))
    engine = Recorder()
    captioned = captions(200, seed=3)
    engine.token_buckets = TOKEN_BUCKETS  # type: ignore[attr-defined]
    encode(captioned, tokenizer, engine, 8, cut="eot")
    assert {array.shape[1] for array in engine.arrays} <= set(TOKEN_BUCKETS)


def test_windows_bound_what_is_tokenised_at_once(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = captions(35, seed=2)
    whole = encode(texts, tokenizer, Recorder(), 4, cut="eot")
    monkeypatch.setattr(text_batches, "WINDOW", 10)
    seen = []

    class Counting(Tokenizer):
        def __call__(self, texts, context_tokens=None):  # type: ignore[no-untyped-def]
            seen.append(len(texts))
            return tokenizer(texts, context_tokens)

    counting = Counting(tokenizer._plain, tokenizer.spec)
    np.testing.assert_array_equal(encode(texts, counting, Recorder(), 4, cut="eot"), whole)
    assert max(seen) == 10 and sum(seen) == len(set(texts))


def test_towers_that_are_not_causal_get_the_padded_context(tokenizer: Tokenizer) -> None:
    engine = Recorder()
    model = ClipModel({"text": engine}, None, tokenizer, embed_dim=2, cut=None)
    texts = ["two dogs", "a dog", "an old wooden house near the table"]
    model.encode_texts(texts, batch_size=2)
    np.testing.assert_array_equal(np.concatenate(engine.arrays), tokenizer(texts))


def test_what_is_no_text_is_named_by_its_place(tokenizer: Tokenizer) -> None:
    for wrong in (7, None, ["a"]):
        with pytest.raises(UsageError, match=r"text 2 is \w+, expected str"):
            encode(["a", "a", wrong], tokenizer, Recorder(), 4, cut="eot")  # type: ignore[list-item]


@pytest.mark.parametrize("threads", [1, 2])
def test_bit_equal_to_the_padded_context(
    sample_artifact: Path, tokenizer: Tokenizer, threads: int
) -> None:
    """Whatever the lengths, the batch, the number of threads and the order of the texts."""
    engine = open_session(sample_artifact / "text" / "model.onnx", threads)
    rng = np.random.default_rng(threads)
    for seed in range(6):
        texts = captions(int(rng.integers(1, 40)), seed)
        padded = tokenizer(texts)
        one_run = engine.run(padded)
        assert len(np.unique(one_run, axis=0)) == len(set(map(bytes, padded)))
        one_by_one = np.concatenate([engine.run(row[None]) for row in padded])
        np.testing.assert_array_equal(one_by_one, one_run)
        for batch_size in (1, int(rng.integers(2, 20)), 64):
            found = encode(texts, tokenizer, engine, batch_size, cut="eot")
            np.testing.assert_array_equal(found, one_run)


def test_the_artifact_does_not_read_the_first_token_and_says_so(
    sample_artifact: Path, tokenizer: Tokenizer
) -> None:
    engine = open_session(sample_artifact / "text" / "model.onnx", 1)
    tokens = tokenizer(captions(3, seed=1))
    other = tokens.copy()
    other[:, 0] = 5
    np.testing.assert_array_equal(engine.run(other), engine.run(tokens))
    towers = {tower.side: tower for tower in read_manifest(sample_artifact).towers}
    assert towers["text"].findings == {"first token": f"taken to be {tokens[0, 0]}, not read"}
    assert towers["image"].findings == {}


def test_the_model_takes_the_short_way_by_itself(sample_artifact: Path) -> None:
    texts = captions(40, seed=9)
    with clipperf.load(sample_artifact, threads=2) as model:
        short = model.encode_texts(texts, batch_size=8)
        assert model._cut == "eot"
        model._cut = None
        np.testing.assert_array_equal(model.encode_texts(texts, batch_size=8), short)
