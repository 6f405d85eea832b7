"""The shapes that TensorRT's engines are tuned for, the same ones whoever builds them.

TensorRT times its kernels at one shape of a profile, `opt`, and takes every other shape between
`min` and `max` with what won there. So engines have several profiles, and a run takes the one
that is nearest to its shape:

- Texts: a profile for each length of `TOKEN_BUCKETS`, for lengths from behind the one before to
  itself. All take the whole range of batches and are tuned for its middle one.
- Images, of one size: a profile for the smallest batch, the middle one, the largest, and each
  power of `BATCH_STEP` between. All take the whole range.

Each profile costs time, plan and memory (docs/tensorrt.md has figures), which is why texts have
none for each batch as well, and batches none for each power of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

from clipperf.engines.contract import TOKEN_BUCKETS, USUAL_BATCHES
from clipperf.errors import ExportError
from clipperf.nouns.artifact import INPUT_NAMES, ShapeRange, TensorSpec
from clipperf.nouns.cell import EngineRequest

Range = tuple[int, int, int]
"""The smallest, the one to tune for and the largest."""

BATCH_STEP = 8
"""A batch is at most about the root of this, 2.8 times, from one that was tuned for."""

SHORTEST_PROFILED = 8
"""Tokens: shorter texts are padded."""


def token_range(context_tokens: int) -> Range:
    """The usual range of text lengths of a model with a dynamic token axis."""
    return (min(SHORTEST_PROFILED, context_tokens), context_tokens, context_tokens)


def batch_steps(batch: Range) -> tuple[int, ...]:
    """The batches that images are tuned for, ascending: the range's own and powers between."""
    low, _, high = batch
    steps, power = set(batch), 1
    while power < high:
        steps |= {power} if power > low else set()
        power *= BATCH_STEP
    return tuple(sorted(steps))


def reach(batch: int) -> int:
    """The largest batch of an engine that is to run this one too, where nobody says.

    Engines that reach farther than the usual have the same steps, however far each reaches.
    """
    largest = USUAL_BATCHES[2]
    while largest < batch:
        largest *= BATCH_STEP
    return largest


def token_steps(tokens: Range) -> tuple[int, ...]:
    """The lengths that texts are tuned for, ascending: the range's own and usual ones within."""
    low, usual, high = tokens
    return tuple(
        sorted({usual, high, *(bucket for bucket in TOKEN_BUCKETS if low <= bucket < high)})
    )


def profiles_of(given: TensorSpec, batch: Range, tokens: Range) -> tuple[ShapeRange, ...]:
    """The profiles of an engine with this input; fixed axes stay as they are.

    Raises:
        ExportError: the input has a dynamic axis that is neither "batch" nor "tokens".
    """
    lengths: list[Range] = [tokens]
    if "tokens" in given.shape:
        steps = token_steps(tokens)
        lowest = (tokens[0], *(step + 1 for step in steps[:-1]))
        lengths = [(low, step, step) for low, step in zip(lowest, steps, strict=True)]
    low, usual, high = batch
    opts = (usual,) if given.name == INPUT_NAMES["text"] else batch_steps(batch)
    found = (
        _shape_range(given, {"batch": (low, opt, high), "tokens": length})
        for length in lengths
        for opt in opts
    )
    return tuple(dict.fromkeys(found))


def _shape_range(given: TensorSpec, ranges: dict[str, Range]) -> ShapeRange:
    shapes: list[tuple[int, ...]] = []
    for place in range(3):
        shape = []
        for axis in given.shape:
            if isinstance(axis, str) and axis not in ranges:
                raise ExportError(f"input {given.name}: no range is known for its axis {axis!r}")
            shape.append(ranges[axis][place] if isinstance(axis, str) else axis)
        shapes.append(tuple(shape))
    return ShapeRange(given.name, *shapes)


def holds(profile: ShapeRange, shape: Sequence[int]) -> bool:
    """Whether a profile takes an input of this shape."""
    return len(shape) == len(profile.min) and all(
        low <= size <= high for low, size, high in zip(profile.min, shape, profile.max, strict=True)
    )


def chosen(profiles: Sequence[ShapeRange], shape: Sequence[int]) -> int | None:
    """The place of the profile to run a shape with, None where none holds it.

    It is the narrowest behind the batch, and of several of those the one that is tuned for the
    batch that is nearest, as a ratio; the first of two as near.
    """
    fitting = [place for place, profile in enumerate(profiles) if holds(profile, shape)]
    if not fitting:
        return None

    def distance(place: int) -> tuple[int, float]:
        one, batch = profiles[place], shape[0]
        width = prod(1 + high - low for low, high in zip(one.min[1:], one.max[1:], strict=True))
        return width, max(batch, one.opt[0]) / min(batch, one.opt[0])

    return min(fitting, key=distance)


def first_batch(profiles: Sequence[ShapeRange], place: int) -> int:
    """The smallest batch that a profile is chosen for, at the length that it is tuned for."""
    one = profiles[place]
    batches = (profile.opt[0] for profile in profiles if profile.opt[1:] == one.opt[1:])
    below = [batch for batch in batches if batch < one.opt[0]]
    return isqrt(max(below) * one.opt[0]) + 1 if below else one.min[0]


def whole(profiles: Sequence[ShapeRange]) -> ShapeRange:
    """All that several profiles of one input take, tuned as the one in their middle."""
    tuned = sorted(profile.opt for profile in profiles)
    return ShapeRange(
        profiles[0].name,
        tuple(map(min, *(profile.min for profile in profiles), profiles[0].min)),
        tuned[(len(tuned) - 1) // 2],
        tuple(map(max, *(profile.max for profile in profiles), profiles[0].max)),
    )


def of_cell(request: EngineRequest) -> ShapeRange:
    """The profile that an engine with the usual ranges runs a cell with.

    The ranges reach to the cell's batch and length. A cell without a length is one of whole
    texts.
    """
    spec, cell = request.spec, request.cell
    name = INPUT_NAMES[cell.side]
    low, usual, _ = USUAL_BATCHES
    tokens = token_range(spec.context_tokens)
    shape: tuple[int, ...] = (cell.batch, 3, spec.image_px, spec.image_px)
    axes: tuple[int | str, ...] = ("batch", *shape[1:])
    if cell.side == "text":
        length = cell.tokens or spec.context_tokens
        tokens = (min(length, tokens[0]), *tokens[1:])
        shape, axes = (cell.batch, length), ("batch", "tokens")
    given = TensorSpec(name, "", axes)
    profiles = profiles_of(given, (low, usual, reach(cell.batch)), tokens)
    place = chosen(profiles, shape)
    assert place is not None, "the ranges reach to the cell"
    return profiles[place]
