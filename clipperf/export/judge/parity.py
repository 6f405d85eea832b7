"""How close an artifact's embeddings are to PyTorch fp32: the gate every artifact passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipperf.export.judge.inputs import WHAT
from clipperf.nouns.artifact import Parity
from clipperf.nouns.cell import Engine
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side

REQUIRED_MIN_COSINE = {
    "fp32": 0.99999,
    "tf32": 0.999,
    "fp16": 0.999,
    "bf16": 0.999,
    "int8w": 0.99,
    "int8": 0.99,
    "int8-static": 0.99,
    "fp8": 0.99,
}
"""Weights rounded to bf16 alone bring the bundled sample to 0.99996 and a random ViT-B-32 to
0.99997; errors grow with the root of the depth. A wrong fold or cast lands far below 0.999.
int8 is judged by the accuracy that it keeps as well; it gave 0.995 to 0.9999 here, and a layer
that is too coarse for its outliers lands far below 0.99."""

ARITHMETIC = {"bf16": "; weights rounded to bf16, computed in float32"}
"""How a precision is checked where the CPU has no kernels for it."""

BATCHES = (1, 3, 8)
"""One, a few, many: a batch axis that the exporter has fixed does not survive these."""

LARGE_BATCHES = (1, 3)
"""For towers of `LARGE_FROM_PARAMETERS`: a third of the inputs, as telling for the batch axis."""

LARGE_FROM_PARAMETERS = 2**28
"""1 GiB in fp32. An image takes ViT-H-14 3 s on two cores in PyTorch, and 3 in ONNX Runtime."""

PROVEN_BATCHES = (2,)
"""For another checkpoint in a graph that has passed before, bit for bit the same."""


def batches_for(spec: ModelSpec, side: Side, proven: bool = False) -> tuple[int, ...]:
    """The batches in which a tower is checked; `proven`: with a graph that has passed before."""
    if proven:
        return PROVEN_BATCHES
    parameters = spec.image_parameters if side == "image" else spec.text_parameters
    return LARGE_BATCHES if (parameters or 0) >= LARGE_FROM_PARAMETERS else BATCHES


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
) -> Parity:
    """Run `inputs` [12, ...] in batches of these sizes and compare with `reference` [12, dim].

    `note` adds to the words on what was compared. A reference of the first few inputs alone (see
    `batches_for`) is compared with those, more than once where the batches hold more.
    """
    inputs = inputs[: min(len(reference), sum(sizes))]
    reference = reference[: len(inputs)]
    produced = np.concatenate([engine.run(batch) for batch in batches_of(inputs, sizes)])
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
    required = REQUIRED_MIN_COSINE[precision]
    finite = bool(np.isfinite(produced).all())
    ours, theirs = produced.astype(np.float64), reference.astype(np.float64)
    if not finite:
        ours = np.nan_to_num(ours, nan=0.0, posinf=0.0, neginf=0.0)
    ours_unit, theirs_unit = _unit(ours), _unit(theirs)
    cosines = np.einsum("ij,ij->i", ours_unit, theirs_unit)
    return Parity(
        n=n,
        batches=tuple(sizes),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        max_abs_diff=float(np.abs(ours - theirs).max()),
        top1_agreement=_agreement(ours_unit[:n], theirs_unit[:n]),
        finite=finite,
        required_min_cosine=required,
        passed=finite and bool(cosines.min() >= required),
        inputs=inputs,
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.where((norms > 0) & np.isfinite(norms), norms, 1)
    return unit


def _agreement(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """See `Parity.top1_agreement`; of unit rows."""
    if len(theirs) < 3:
        return None
    return float(np.mean(_nearest(ours, theirs) == _nearest(theirs, theirs)))


def _nearest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The nearest other row for each query, by cosine of unit rows."""
    similarity = queries @ gallery.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: np.ndarray = similarity.argmax(axis=1)
    return nearest


def explain(parity: Parity, label: str) -> str:
    """One line on what a failed comparison found."""
    if not parity.finite:
        return f"{label}: the exported tower gives NaN or infinite embeddings"
    return (
        f"{label}: minimum cosine {parity.min_cosine:.6f} against PyTorch fp32, "
        f"{parity.required_min_cosine} is required (mean {parity.mean_cosine:.6f}, largest "
        f"difference {parity.max_abs_diff:.2e})"
    )
