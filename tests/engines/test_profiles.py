"""The shapes that TensorRT's engines are tuned for, and which of them a run takes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipperf.engines.contract import TOKEN_BUCKETS
from clipperf.engines.profiles import (
    Range,
    batch_steps,
    chosen,
    first_batch,
    holds,
    of_cell,
    profiles_of,
    reach,
    token_range,
    token_steps,
    whole,
)
from clipperf.errors import ExportError
from clipperf.nouns.artifact import ShapeRange, TensorSpec
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec

IMAGE = TensorSpec("pixel_values", "float32", ("batch", 3, 4, 4))
TEXT = TensorSpec("input_ids", "int64", ("batch", "tokens"))

RANGES = st.lists(st.integers(1, 600), min_size=3, max_size=3).map(sorted).map(tuple)
CONTEXTS = st.integers(1, 128)


@pytest.mark.parametrize(
    ("batch", "steps"),
    [
        ((1, 8, 64), (1, 8, 64)),
        ((8, 8, 8), (8,)),
        ((1, 1, 4), (1, 4)),
        ((1, 8, 512), (1, 8, 64, 512)),
        ((2, 32, 100), (2, 8, 32, 64, 100)),
    ],
)
def test_images_are_tuned_for_their_range_and_powers_of_eight(
    batch: Range, steps: tuple[int, ...]
) -> None:
    assert batch_steps(batch) == steps


@pytest.mark.parametrize(
    ("context", "steps"),
    [
        (77, (8, 16, 24, 32, 48, 77)),
        (64, (8, 16, 24, 32, 48, 64)),
        (128, (8, 16, 24, 32, 48, 77, 128)),
        (16, (8, 16)),
        (5, (5,)),
    ],
)
def test_texts_are_tuned_for_usual_lengths_and_the_longest(
    context: int, steps: tuple[int, ...]
) -> None:
    assert token_steps(token_range(context)) == steps
    assert set(steps) <= {*TOKEN_BUCKETS, context}


def test_profiles_of_both_towers() -> None:
    text = profiles_of(TEXT, (1, 8, 64), (8, 77, 77))
    assert [(one.min, one.opt, one.max) for one in text] == [
        ((1, 8), (8, 8), (64, 8)),
        ((1, 9), (8, 16), (64, 16)),
        ((1, 17), (8, 24), (64, 24)),
        ((1, 25), (8, 32), (64, 32)),
        ((1, 33), (8, 48), (64, 48)),
        ((1, 49), (8, 77), (64, 77)),
    ]
    image = profiles_of(IMAGE, (1, 8, 64), (8, 77, 77))
    assert [(one.min[0], one.opt[0], one.max[0]) for one in image] == [
        (1, 1, 64), (1, 8, 64), (1, 64, 64)
    ]  # fmt: skip
    assert {one.opt[1:] for one in image} == {(3, 4, 4)}
    fixed = TensorSpec("input_ids", "int64", ("batch", 64))
    assert profiles_of(fixed, (1, 8, 64), (8, 77, 77)) == (
        ShapeRange("input_ids", (1, 64), (8, 64), (64, 64)),
    )
    still = TensorSpec("x", "float32", (2, 3))
    assert profiles_of(still, (1, 8, 64), (8, 77, 77)) == (ShapeRange("x", (2, 3), (2, 3), (2, 3)),)
    with pytest.raises(ExportError, match="no range is known for its axis 'width'"):
        profiles_of(TensorSpec("x", "float32", ("batch", "width")), (1, 8, 64), (8, 77, 77))


def test_a_run_takes_the_batch_that_is_nearest_as_a_ratio() -> None:
    profiles = profiles_of(IMAGE, (1, 8, 64), (8, 77, 77))
    found = {batch: chosen(profiles, (batch, 3, 4, 4)) for batch in (1, 2, 3, 8, 22, 23, 32, 64)}
    # 2 is twice 1 and a quarter of 8; 22 * 22 < 8 * 64 < 23 * 23.
    assert found == {1: 0, 2: 0, 3: 1, 8: 1, 22: 1, 23: 2, 32: 2, 64: 2}
    assert [first_batch(profiles, place) for place in range(3)] == [1, 3, 23]
    for shape in ((65, 3, 4, 4), (0, 3, 4, 4), (1, 3, 4, 5), (1, 3, 4), ()):
        assert chosen(profiles, shape) is None


def test_a_narrower_profile_wins_over_one_that_is_tuned_nearer() -> None:
    wide = ShapeRange("x", (1, 8), (4, 16), (64, 77))
    narrow = ShapeRange("x", (1, 8), (64, 16), (64, 16))
    assert chosen((wide, narrow), (4, 16)) == 1
    assert chosen((wide, narrow), (4, 17)) == 0


@settings(max_examples=200, deadline=None)
@given(batch=RANGES, context=CONTEXTS, data=st.data())
def test_every_shape_of_the_range_has_its_profile(
    batch: Range, context: int, data: st.DataObject
) -> None:
    tokens = token_range(context)
    for spec, rest in (
        (IMAGE, (3, 4, 4)),
        (TEXT, (data.draw(st.integers(tokens[0], context)),)),
    ):
        profiles = profiles_of(spec, batch, tokens)
        assert len(set(profiles)) == len(profiles)
        assert whole(profiles).min[0] == batch[0] and whole(profiles).max[0] == batch[2]
        shape = (data.draw(st.integers(batch[0], batch[2])), *rest)
        place = chosen(profiles, shape)
        assert place is not None and holds(profiles[place], shape)
        one = profiles[place]
        assert all(low <= opt <= high for low, opt, high in zip(one.min, one.opt, one.max))  # noqa: B905
        # No other that holds it is narrower, or as narrow and tuned for a nearer batch.
        others = [other for other in profiles if holds(other, shape)]
        assert one.max[1:] == min(other.max[1:] for other in others)
        assert all(
            max(shape[0], one.opt[0]) * min(shape[0], other.opt[0])
            <= max(shape[0], other.opt[0]) * min(shape[0], one.opt[0])
            for other in others
        )
        if first_batch(profiles, place) <= batch[2]:
            at = (first_batch(profiles, place), *one.opt[1:])
            assert chosen(profiles, at) == place
    lengths = [one.opt[1] for one in profiles]
    assert lengths == sorted(lengths)
    assert all(after.min[1] == one.max[1] + 1 for one, after in pairwise(profiles))


@settings(max_examples=200, deadline=None)
@given(
    batch=st.integers(1, 2000),
    largest=st.integers(1, 2000),
    context=st.integers(8, 128),
    data=st.data(),
)
def test_a_cell_runs_in_one_profile_whichever_library_opens_it(
    batch: int, largest: int, context: int, data: st.DataObject
) -> None:
    """ONNX Runtime's providers know the cell, TensorRT's own engines serve a whole sweep."""
    spec = ModelSpec("toy::random:0", "open_clip", "toy", "random:0", 4, context, 4)
    length = data.draw(st.integers(8, context))
    sweep = (1, 8, reach(max(batch, largest)))
    for given_, shape, cell in (
        (IMAGE, (batch, 3, 4, 4), Cell(spec.id, "image", "ort-trt", "fp16", "cuda", batch, 1)),
        (TEXT, (batch, length), Cell(spec.id, "text", "ort-trt", "fp16", "cuda", batch, 1, length)),
    ):
        ours = of_cell(EngineRequest(cell, spec, None))
        profiles = profiles_of(given_, sweep, token_range(context))
        place = chosen(profiles, shape)
        assert place is not None
        theirs = profiles[place]
        assert holds(ours, shape)
        assert (ours.name, ours.min, ours.opt, ours.max[1:]) == (
            theirs.name, theirs.min, theirs.opt, theirs.max[1:]
        )  # fmt: skip
        # The largest batch of a sweep apart, where that is beyond the usual.
        assert (ours.max == theirs.max) == (reach(batch) == sweep[2])
