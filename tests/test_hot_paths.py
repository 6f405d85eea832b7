"""Counts guard the hot paths: instructions, engine calls, tokens and bytes; a time never does.

What clipperf's own Python costs around an engine is counted with engines that cost nothing.
`COUNTED` is what was counted on Python 3.11, whose later versions need fewer instructions for the
same source; a count may grow by `HEADROOM` before its test fails, calls and tokens not at all.
"""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipperf
from clipperf.bench import cost
from clipperf.engines import onnxruntime
from clipperf.inputs.preprocess import PreprocessSpec
from clipperf.inputs.tokenize import Tokenizer
from clipperf.serve import images as image_batches
from clipperf.serve import model as clip_model
from clipperf.serve import texts as text_batches
from clipperf.serve.model import ClipModel

PACKAGE = str(Path(clipperf.__file__).parent)
HEADROOM = 1.15

SPEC = PreprocessSpec(224, 224)
IMAGES, IMAGE_BATCH = 8, 2
BATCH_BYTES = IMAGE_BATCH * 3 * 224 * 224 * 4
SMALL_BYTES = 2**19
"""What decoding holds beside batches of floats: an image's bytes, futures, embeddings."""

TEXTS, TEXT_BATCH, CONTEXT = 64, 16, 77
CALLS = 100

COUNTED = {
    # Cleaning, words to tokens from the dictionary of known words, sorting, splitting: of 48
    # different texts, 319 each.
    "instructions of 64 texts": 15323,
    # Full batches of 16 would be 3; one is split where padding costs more than a run.
    "engine calls of 64 texts": 4,
    # What the engine is fed: 479 tokens of the texts and 41 of padding; padded to the context
    # these texts have 3696.
    "tokens of 64 texts": 520,
    # Tokens of the whole context, once as they come and once sorted.
    "bytes of 64 texts": 72425,
    # Size, crop and the order of arithmetic of each image; pixels are touched in C only.
    "instructions of 8 images": 4065,
    "instructions of 8 images, 2 threads": 4542,
    # The batch that is used, and with threads the one that is being prepared.
    "bytes of 8 images": BATCH_BYTES + SMALL_BYTES,
    "bytes of 8 images, 2 threads": 2 * BATCH_BYTES + SMALL_BYTES,
    # One dictionary and one call.
    "instructions of one run": 20,
    # The clock twice, the sample kept, three conditions.
    "instructions of 100 timed calls": 4830,
}
EXACT = ("engine calls", "tokens", "bytes of 8")


class Free:
    """An engine that costs nothing and remembers the shapes that it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, array: np.ndarray) -> np.ndarray:
        self.shapes.append(array.shape)
        return np.zeros((len(array), 8), np.float32)

    def close(self) -> None:
        pass


def instructions(action: Callable[[], Any]) -> int:
    """Bytecode instructions that clipperf's own frames execute, in all threads begun meanwhile."""
    executed = count()  # `next` is one step, so threads lose none

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            next(executed)
        return trace

    before = sys.gettrace()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]
    return next(executed)


def peak_bytes(action: Callable[[], Any]) -> int:
    """The most bytes that Python and numpy held beyond what they held before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def artifact_tokenizer(sample_artifact: Path) -> Tokenizer:
    return Tokenizer.from_folder(sample_artifact)


@pytest.fixture
def tokenizer(artifact_tokenizer: Tokenizer) -> Tokenizer:
    artifact_tokenizer(captions())  # as in use: the words are known
    return artifact_tokenizer


def captions() -> list[str]:
    """64 captions of 1 to 12 words in no order; every fourth is there twice."""
    sentence = "a photo of the red apple on table near two small dogs"
    words = sentence.split()
    unique = [" ".join(words[i % 5 :][: 1 + i * 7 % 12]) + f" {i}" for i in range(TEXTS * 3 // 4)]
    return unique + unique[::3]


def text_counts(tokenizer: Tokenizer) -> dict[str, int]:
    """Every count of `encode_texts`."""
    engine = Free()
    model = ClipModel({"text": engine}, None, tokenizer, embed_dim=8, cut="eot")

    def encode() -> None:
        assert len(model.encode_texts(captions(), batch_size=TEXT_BATCH)) == TEXTS

    encode()
    shapes = list(engine.shapes)
    return {
        "instructions of 64 texts": instructions(encode),
        "engine calls of 64 texts": len(shapes),
        "tokens of 64 texts": sum(rows * width for rows, width in shapes),
        "bytes of 64 texts": peak_bytes(encode),
    }


def image_counts(workers: int) -> dict[str, int]:
    """Every count of `encode_images`, with some threads or none."""
    engine = Free()
    model = ClipModel({"image": engine}, SPEC, None, embed_dim=8, cut=None)
    images = [Image.new("RGB", (320, 240), (i, i, i)) for i in range(IMAGES)]

    def encode() -> None:
        model.encode_images(images, batch_size=IMAGE_BATCH, workers=workers)

    encode()
    assert engine.shapes == [(IMAGE_BATCH, 3, 224, 224)] * (IMAGES // IMAGE_BATCH)
    how = f", {workers} threads" if workers else ""
    return {
        f"instructions of 8 images{how}": instructions(encode),
        f"bytes of 8 images{how}": peak_bytes(encode),
    }


def run_counts(engine: onnxruntime.OnnxRuntimeEngine) -> dict[str, int]:
    """What one run of the sample's text tower costs beside ONNX Runtime."""
    tokens = np.zeros((1, CONTEXT), np.int64)
    return {"instructions of one run": instructions(lambda: engine.run(tokens))}


def loop_counts(run: Callable[[np.ndarray], np.ndarray]) -> dict[str, int]:
    """What the harness executes around calls that it times."""
    nothing = np.zeros((1, CONTEXT), np.int64)
    block = {"warmup": 0, "calls": CALLS, "min_s": 0.0}
    counted = instructions(lambda: cost.time_block(run, nothing, **block))  # type: ignore[arg-type]
    return {"instructions of 100 timed calls": counted}


def broken(counts: dict[str, int]) -> dict[str, int]:
    """The counts that are over their bound."""
    return {
        name: value
        for name, value in counts.items()
        if value > COUNTED[name] * (1 if name.startswith(EXACT) else HEADROOM)
    }


# --- the guards ----------------------------------------------------------------------------


def test_texts_cost_what_they_did(tokenizer: Tokenizer) -> None:
    assert not broken(text_counts(tokenizer))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_cost_what_they_did(workers: int) -> None:
    assert not broken(image_counts(workers))


@pytest.fixture(scope="module")
def engine(sample_artifact: Path) -> Iterator[onnxruntime.OnnxRuntimeEngine]:
    yield onnxruntime.open_session(sample_artifact / "text" / "model.onnx", 1)


def test_a_run_costs_what_it_did(engine: onnxruntime.OnnxRuntimeEngine) -> None:
    assert not broken(run_counts(engine))


def test_the_harness_costs_what_it_did() -> None:
    assert not broken(loop_counts(Free().run))


# --- what the guards notice ----------------------------------------------------------------


def test_duplicates_that_are_embedded_again_are_noticed(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def each(texts: Any, tokenizer: Tokenizer, engine: Any, size: int, cut: bool) -> np.ndarray:
        return text_batches._run(
            tokenizer(texts), engine, size, text_batches.ends_of(tokenizer, "eot")
        )

    monkeypatch.setattr(clip_model, "embed_texts", each)
    found = broken(text_counts(tokenizer))
    assert {"instructions of 64 texts", "tokens of 64 texts"} <= found.keys()


def test_padding_that_is_not_cut_is_noticed(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(texts: Any, tokenizer: Tokenizer, engine: Any, size: int, cut: bool) -> np.ndarray:
        return text_batches.encode(texts, tokenizer, engine, size, cut=None)

    monkeypatch.setattr(clip_model, "embed_texts", whole)
    assert "tokens of 64 texts" in broken(text_counts(tokenizer))


def test_texts_in_their_own_order_are_noticed(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arrived(texts: Any, tokenizer: Tokenizer, engine: Any, size: int, cut: bool) -> np.ndarray:
        unique = list(dict.fromkeys(texts))
        chunks = [unique[i : i + size] for i in range(0, len(unique), size)]
        parts = [text_batches.encode(part, tokenizer, engine, size, cut) for part in chunks]
        return np.concatenate([*parts, parts[0]])

    monkeypatch.setattr(clip_model, "embed_texts", arrived)
    found = broken(text_counts(tokenizer))
    assert {"tokens of 64 texts", "engine calls of 64 texts"} <= found.keys()


def test_words_that_are_tokenised_again_are_noticed(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(dict[str, list[int]]):
        def __setitem__(self, word: str, ids: list[int]) -> None:
            pass

    monkeypatch.setattr(tokenizer, "_word_ids", Forgetful())
    assert broken(text_counts(tokenizer)).keys() == {"instructions of 64 texts"}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_pile_up_are_noticed(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one_ahead = image_batches.batches

    def piled(*args: Any, **options: Any) -> Iterator[np.ndarray]:
        yield from list(one_ahead(*args, **options))

    monkeypatch.setattr(image_batches, "batches", piled)
    assert any(name.startswith("bytes") for name in broken(image_counts(workers)))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_are_preprocessed_twice_are_noticed(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = image_batches.fill

    def twice(*args: Any) -> bool:
        once(*args)
        return once(*args)

    monkeypatch.setattr(image_batches, "fill", twice)
    assert any(name.startswith("instructions") for name in broken(image_counts(workers)))


def test_checks_in_every_run_are_noticed(engine: onnxruntime.OnnxRuntimeEngine) -> None:
    class Careful(onnxruntime.OnnxRuntimeEngine):
        def run(self, array: np.ndarray) -> np.ndarray:
            onnxruntime.check_provider(self._session, self.provider)
            return super().run(array)

    assert broken(run_counts(Careful(engine._session, engine.provider)))


def test_work_around_every_timed_call_is_noticed() -> None:
    run = Free().run
    assert broken(loop_counts(lambda array: cost.timed(lambda: run(array))[0]))
