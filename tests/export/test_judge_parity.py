"""The gate's comparison, with engines whose embeddings are given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from clipperf.export.judge import parity
from clipperf.export.judge.parity import (
    batches_for,
    batches_of,
    batches_within,
    compare,
    explain,
    measure,
)
from clipperf.nouns.artifact import Parity
from clipperf.nouns.model import ModelSpec

SPEC = ModelSpec("M::w", "open_clip", "M", "w", 224, 77, 512)


def spec(image: int, text: int) -> ModelSpec:
    return dataclasses.replace(SPEC, image_parameters=image, text_parameters=text)


def at(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


class Turned:
    """An engine whose inputs are angles, turned by what each of its calls is given."""

    def __init__(self, *degrees: float) -> None:
        self.degrees = degrees
        self.batches: list[list[float]] = []

    def run(self, array: np.ndarray) -> np.ndarray:
        turn = self.degrees[min(len(self.batches), len(self.degrees) - 1)]
        self.batches.append(array.tolist())
        return at(*(array + turn))

    def close(self) -> None:
        """Nothing is held."""


def test_large_towers_get_a_third_of_the_inputs() -> None:
    assert (parity.BATCHES, parity.LARGE_BATCHES) == ((1, 3, 8), (1, 3))
    large = spec(2**28, 2**28 - 1)
    assert parity.LARGE_FROM_PARAMETERS * 4 == 2**30
    assert batches_for(large, "image") == (1, 3)
    assert batches_for(large, "text") == (1, 3, 8)


@pytest.mark.parametrize(
    ("sizes", "smallest", "largest", "batches"),
    [
        ((1, 3, 8), 1, 8, (1, 3, 8)),
        ((1, 3, 8), 1, 32, (1, 3, 8)),
        ((1, 3, 8), 2, 4, (2, 3, 4, 4)),
        ((1, 3, 8), 1, 1, (1,) * 12),
        ((1, 3), 16, 16, (16,)),
        ((1, 3), 1, 2, (1, 2, 2)),
    ],
)
def test_batches_that_an_engine_takes(
    sizes: tuple[int, ...], smallest: int, largest: int, batches: tuple[int, ...]
) -> None:
    assert batches_within(sizes, smallest, largest) == batches


def test_inputs_are_cut_into_batches_and_begin_anew() -> None:
    cut = [batch.tolist() for batch in batches_of(np.arange(12))]
    assert cut == [[0], [1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]]
    assert [b.tolist() for b in batches_of(np.arange(3), (2, 3))] == [[0, 1], [2, 0, 1]]
    assert [b.tolist() for b in batches_of(np.arange(12), (2,))] == [[0, 1]]


def test_all_batches_are_compared_in_order() -> None:
    engine, inputs = Turned(0, 60, 0), np.arange(12.0) * 10
    found = measure(engine, inputs, at(*inputs), "fp32", ", so", (1, 3, 8))
    assert [len(batch) for batch in engine.batches] == [1, 3, 8]
    assert [x for batch in engine.batches for x in batch] == inputs.tolist()
    assert found == Parity(
        n=12,
        batches=(1, 3, 8),
        min_cosine=pytest.approx(0.5, abs=1e-6),  # type: ignore[arg-type]
        mean_cosine=pytest.approx((9 + 3 * 0.5) / 12, abs=1e-6),  # type: ignore[arg-type]
        max_abs_diff=found.max_abs_diff,
        top1_agreement=found.top1_agreement,
        finite=True,
        required_min_cosine=0.99999,
        passed=False,
        inputs="12 of the bundled sample's images or captions, so",
    )
    # Each value of the three turned ones differs by no more than the chord of 60 degrees.
    assert 0.8 < found.max_abs_diff <= 1.0
    assert measure(Turned(0), inputs, at(*inputs), "fp32").passed
    assert measure(Turned(0), inputs, at(*inputs), "fp32").batches == (1, 3, 8)


def test_references_of_the_first_inputs_alone() -> None:
    engine, inputs = Turned(0), np.arange(12.0) * 10
    found = measure(engine, inputs, at(*inputs[:4]), "fp32", sizes=(1, 3))
    assert engine.batches == [[0.0], [10.0, 20.0, 30.0]]
    assert (found.n, found.passed) == (4, True)
    engine = Turned(0)
    found = measure(engine, inputs, at(*inputs[:2]), "fp32", sizes=(1, 3))
    assert engine.batches == [[0.0], [10.0, 0.0, 10.0]]
    assert (found.n, found.top1_agreement, found.passed) == (2, None, True)
    assert found.inputs.startswith("2 of the bundled")
    # Fewer inputs than references: the inputs begin anew, and with them their references.
    found = measure(Turned(0), inputs[:2], at(*inputs[:5]), "fp32", sizes=(1, 3))
    assert (found.n, found.passed) == (2, True)
    # More references than the batches hold.
    engine = Turned(0)
    assert measure(engine, inputs, at(*inputs), "fp32", sizes=(2,)).n == 2
    assert engine.batches == [[0.0, 10.0]]


@pytest.mark.parametrize(
    ("precision", "cosine", "passed"),
    [
        ("fp16", 0.9991, True),
        ("fp16", 0.9989, False),
        ("int8", 0.9901, True),
        ("int8", 0.98, False),
    ],
)
def test_each_precision_has_its_least_cosine(precision: str, cosine: float, passed: bool) -> None:
    turned = float(np.degrees(np.arccos(cosine)))
    found = compare(at(0, 90, 180 + turned), at(0, 90, 180), precision, "words", (3,))
    assert (found.passed, found.n, found.inputs, found.batches) == (passed, 3, "words", (3,))
    assert found.min_cosine == pytest.approx(cosine, abs=1e-6)
    assert found.required_min_cosine == {"fp16": 0.999, "int8": 0.99}[precision]


def test_a_cosine_that_is_just_enough() -> None:
    ours, theirs = np.array([[0.99, (1 - 0.99**2) ** 0.5]]), np.array([[1.0, 0.0]])
    exact = compare(ours, theirs, "int8", "").min_cosine
    assert compare(ours, theirs, "int8", "").passed == (exact >= 0.99)


def test_repeated_inputs_have_no_neighbours_of_their_own() -> None:
    rows = at(0, 5, 90, 100, 0, 5)
    assert compare(rows, rows, "fp32", "", n=4).top1_agreement == 1
    moved = at(0, 5, 10, 100, 0, 5)
    assert compare(moved, rows, "fp32", "", n=4).top1_agreement == 0.75
    assert compare(rows[:3], rows[:3], "fp32", "").n == 3
    assert compare(rows[:3], rows[:3], "fp32", "").batches == (1, 3, 8)


def test_what_is_not_finite_never_passes() -> None:
    broken = at(0, 90)
    broken[1] = np.nan
    found = compare(broken, at(0, 90), "int8", "")
    assert (found.finite, found.passed, found.min_cosine) == (False, False, 0)
    assert (
        explain(found, "M image") == "M image: the exported tower gives NaN or infinite embeddings"
    )


def test_the_engine_is_judged_and_not_the_reference() -> None:
    inputs = np.array([0.0, 5, 90, 100])
    found = measure(Turned(float("nan")), inputs, at(*inputs), "int8", sizes=(4,))
    assert (found.finite, found.passed) == (False, False)
    # Its first moved to the third: the nearest of the reference to that is the fourth.
    found = measure(Turned(0), np.array([91.0, 5, 90, 100]), at(*inputs), "int8", sizes=(4,))
    assert found.top1_agreement == 0.75


def test_what_was_found_in_one_line() -> None:
    found = dataclasses.replace(
        compare(at(0, 60), at(0, 0), "int8", ""),
        min_cosine=0.98,
        mean_cosine=0.9912345,
        max_abs_diff=0.01234,
    )
    assert explain(found, "M image") == (
        "M image: minimum cosine 0.980000 against PyTorch fp32, 0.99 is required "
        "(mean 0.991235, largest difference 1.23e-02)"
    )


@pytest.mark.parametrize(("times", "passed"), [(1.04, True), (0.94, False), (2, False)])
def test_vectors_of_another_length_are_refused_in_words(times: float, passed: bool) -> None:
    """Their directions are right, and dot products would not be."""
    reference = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    found = parity.compare(reference * np.float32(times), reference, "fp32", "inputs")
    assert found.min_cosine == pytest.approx(1) and found.passed == passed
    if not passed:
        assert "longer or shorter than PyTorch's by more than 5.0%" in parity.explain(found, "toy")
