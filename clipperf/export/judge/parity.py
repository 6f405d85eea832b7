"""How close an artifact's embeddings are to PyTorch fp32: the gate every artifact passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipperf.drift import drift_of, neighbour_agreement, room_of
from clipperf.nouns.artifact import Parity
from clipperf.nouns.cell import Engine
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PRECISIONS, Side
from clipperf.serve.parity_inputs import WHAT

BATCHES = (1, 3, 8)
"""One, a few, many: a batch axis that the exporter has fixed does not survive these."""

LARGE_BATCHES = (1, 3)
"""For towers of `LARGE_FROM_PARAMETERS`: a third of the inputs, as telling for the batch axis."""

LARGE_FROM_PARAMETERS = 2**28
"""1 GiB in fp32. An image takes ViT-H-14 3 s on two cores in PyTorch, and 3 in ONNX Runtime."""


def batches_for(spec: ModelSpec, side: Side) -> tuple[int, ...]:
    """The batches in which a tower is checked, whatever it is made for and was made of.

    They depend on the model alone, so that a verdict never depends on what was exported before.
    """
    return LARGE_BATCHES if spec.parameters(side) >= LARGE_FROM_PARAMETERS else BATCHES


def batches_within(sizes: Sequence[int], smallest: int, largest: int) -> tuple[int, ...]:
    """Batches for an engine that takes `smallest` to `largest` inputs: no fewer inputs in all."""
    fitted: list[int] = []
    while sum(fitted) < sum(sizes):
        size = sizes[len(fitted)] if len(fitted) < len(sizes) else largest
        fitted.append(min(max(size, smallest), largest))
    return tuple(fitted)


def batches_of(array: np.ndarray, sizes: Sequence[int] = BATCHES) -> list[np.ndarray]:
    """Cut inputs [12, ...] into consecutive batches; they begin anew where they do not suffice."""
    ends = np.cumsum(sizes)
    array = array[np.arange(ends[-1]) % len(array)]
    return [array[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def measure(
    engine: Engine,
    inputs: np.ndarray,
    reference: np.ndarray,
    precision: str,
    note: str = "",
    sizes: Sequence[int] = BATCHES,
    lengths: np.ndarray | None = None,
) -> Parity:
    """Run `inputs` [12, ...] in batches of these sizes and compare with `reference` [12, dim].

    With `lengths` [12] of texts all batches but the last are cut at their longest. `note` adds to
    the words on what was compared. A reference of the first few inputs alone (see `LARGE_BATCHES`)
    is compared with those, more than once where the batches hold more.
    """
    inputs = inputs[: min(len(reference), sum(sizes))]
    reference = reference[: len(inputs)]
    given = batches_of(inputs, sizes)
    if lengths is not None:
        longest = [int(part.max()) for part in batches_of(lengths[: len(inputs)], sizes)]
        cut = [batch[:, :end] for batch, end in zip(given, longest, strict=True)]
        given = [*map(np.ascontiguousarray, cut[:-1]), given[-1]]
    produced = np.concatenate([engine.run(batch) for batch in given])
    expected = np.concatenate(batches_of(reference, sizes))
    said = f"{len(inputs)} {WHAT}{note}"
    return compare(produced, expected, precision, said, sizes, len(inputs))


def compare(
    produced: np.ndarray,
    reference: np.ndarray,
    precision: str,
    inputs: str,
    sizes: Sequence[int] = BATCHES,
    n: int | None = None,
) -> Parity:
    """Judge embeddings [rows, embed_dim] against PyTorch fp32's of the same inputs.

    The first `n` rows are of different inputs, all others repeat them; None: all are different.
    """
    n = len(reference) if n is None else n
    required = PRECISIONS.get(precision).min_cosine
    found = drift_of(produced, reference)
    return Parity(
        n=n,
        batches=tuple(sizes),
        min_cosine=found.min_cosine,
        mean_cosine=found.mean_cosine,
        max_abs_diff=found.max_abs_diff,
        top1_agreement=neighbour_agreement(produced[:n], reference[:n]),
        finite=found.finite,
        required_min_cosine=required,
        passed=found.finite
        and found.min_cosine >= required
        and abs(found.most_longer) <= room_of(required),
        inputs=inputs,
    )


def explain(parity: Parity, label: str) -> str:
    """One line on what a failed comparison found."""
    if not parity.finite:
        return f"{label}: the exported tower gives NaN or infinite embeddings"
    if parity.min_cosine >= parity.required_min_cosine and not parity.passed:
        room = room_of(parity.required_min_cosine)
        return (
            f"{label}: embeddings are longer or shorter than PyTorch's by more than {room:.1%} "
            f"(largest difference {parity.max_abs_diff:.2e})"
        )
    return (
        f"{label}: minimum cosine {parity.min_cosine:.6f} against PyTorch fp32, "
        f"{parity.required_min_cosine} is required (mean {parity.mean_cosine:.6f}, largest "
        f"difference {parity.max_abs_diff:.2e})"
    )
