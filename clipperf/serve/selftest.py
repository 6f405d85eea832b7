"""Whether a tower that was opened gives the embeddings that it was exported with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipperf.drift import drift_of
from clipperf.errors import ArtifactError
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.artifact import (
    FEATURES_REFERENCE,
    INPUTS_FILE,
    Artifact,
    CutAt,
    reference_name,
)
from clipperf.nouns.cell import Engine
from clipperf.nouns.variant import PRECISIONS
from clipperf.serve.features import features_of
from clipperf.serve.parity_inputs import parity_inputs
from clipperf.serve.texts import ends_of, given_lengths
from clipperf.system.reading import read_small, regular_bytes

INPUTS = 4
"""How many of the inputs are enough: damaged weights show in any of them."""

SAME, DIFFERENT = 1e-6, 1e-4
"""Spreads of embeddings: below the first they are one, above the second they are several."""

LEAST_ROOM = 0.05
"""How much longer or shorter an embedding may be in any precision: the sample's in fp16 are 0.1 %
off, bf16 has 8 bits of every value, and what is lost or scaled twice is off by far more."""

UNIT_ROOM = 0.02
"""The same for unit vectors: nothing but the rounding of the length itself, in 8 bits at worst."""

MOST_REFERENCE_BYTES = 2**20
MOST_ROWS = 1024


def check(engine: Engine, folder: Path, tower: Artifact, cut: CutAt | None = None) -> None:
    """Embed the first inputs that the export was judged on, in the same batches.

    Texts are cut as they are in use, in all batches but the last: where the tower's may be, else
    at `cut`, which is for engines that take any length of a tower that does not. Features that a
    tower gives beside its embeddings are compared as they are.

    Raises:
        ArtifactError: the embeddings are farther from PyTorch's than the export allowed, or longer
            or shorter, or the artifact does not hold these.
        EngineError: the tower does not run.
    """
    path = folder / reference_name(tower.side)
    references = [_reference(path, tower.outputs[0].shape[-1])]
    if len(tower.outputs) > 1 and hasattr(engine, "run_features"):
        references.append(_reference(folder / FEATURES_REFERENCE, tower.outputs[1].shape[-1]))
    if regular_bytes(folder / INPUTS_FILE) is None:
        raise ArtifactError(
            f"{folder} carries no inputs to test itself with, as those of an earlier clipperf: "
            f"export the model again, or open it with self_test=False"
        )
    tokenizer = Tokenizer.from_folder(folder) if tower.side == "text" else None
    inputs = parity_inputs(folder, tower.side, tower.inputs[0].dtype, tokenizer)
    ends = None if tokenizer is None else ends_of(tokenizer, tower.cut_at or cut)
    lengths = None if ends is None else given_lengths(engine, ends(inputs))
    judged = tower.parity
    sizes = judged.batches if judged is not None else _smallest(tower)
    if not sizes or not all(1 <= size <= MOST_ROWS for size in sizes):
        raise ArtifactError(
            f"the {tower.side} tower of {folder} was judged in batches of {sizes}, which cannot "
            f"be: export the model again"
        )
    batches = _batches(sizes, min(*map(len, references), len(inputs)), lengths is not None)
    given: list[list[np.ndarray]] = [[] for _ in references]
    for place, batch in enumerate(batches):
        array = inputs[batch]
        if lengths is not None and place < len(batches) - 1:
            array = np.ascontiguousarray(array[:, : lengths[batch].max()])
        both = features_of(engine, array) if len(references) > 1 else None
        for kept, found in zip(given, both or (engine.run(array),), strict=True):
            kept.append(found)
    rows = np.concatenate(batches)
    # A tower that was kept although it failed is held to what it had then.
    row = PRECISIONS.find(tower.precision)
    wanted = judged.required_min_cosine if judged is not None else row.min_cosine if row else 0.0
    if judged is not None and not judged.passed:
        wanted = min(wanted, judged.min_cosine - 0.01)
    room = max(LEAST_ROOM, _along(wanted))
    rooms = (UNIT_ROOM if tower.normalized else room, room)
    for kept, reference, most in zip(given, references, rooms, strict=False):
        wrong = _wrong(kept, reference[rows], wanted, most)
        if wrong:
            raise ArtifactError(
                f"the {tower.side} tower of {folder} fails its self-test: {wrong}. Its file is "
                f"damaged (clipperf inspect {folder} tells), or the runtime computes something "
                f"else here: take another version, runtime or precision, or export the model "
                f"again on this machine. With self_test=False it is opened all the same"
            )


def _batches(sizes: Sequence[int], inputs: int, several: bool) -> list[np.ndarray]:
    """The first batches of these sizes, as places of inputs, until `INPUTS` are in them.

    Inputs begin anew where they do not suffice. Of `several` there are two at least.
    """
    found: list[np.ndarray] = []
    start = 0
    for size in [*sizes, *(sizes[-1:] if several else ())]:
        if start >= INPUTS and len(found) > several:
            break
        found.append(np.arange(start, start + size) % inputs)
        start += size
    return found


def _along(wanted: float) -> float:
    """How far the length of a vector is off where an error lies along it that, across it, would
    bring its cosine down to `wanted`: 14 % for 0.99."""
    return float(np.sqrt(2 * (1 - wanted)))


def _wrong(given: Sequence[np.ndarray], reference: np.ndarray, wanted: float, room: float) -> str:
    """What is wrong with a tower's batches beside the reference [n, embed_dim]; "" for nothing.

    `wanted` is the least cosine, `room` how far a length may be off, as a part of it.
    """
    width = reference.shape[1]
    if any(batch.ndim != 2 or batch.shape[1] != width for batch in given):
        return f"embeddings of shape {given[0].shape}, [batch, {width}] were expected"
    found = np.concatenate(given)
    if found.shape != reference.shape:
        return f"{len(found)} embeddings of {len(reference)} inputs"
    drift = drift_of(found, reference)
    if not drift.finite:
        return f"values that are not finite, in embeddings of {len(found)} inputs"
    if not found.any():
        return f"zeros for all of {len(found)} inputs"
    # Before the cosines: embeddings of other inputs may be close to each other.
    if _spread(found) < SAME and _spread(reference) > DIFFERENT:
        return f"the same embedding for {len(found)} different inputs"
    if drift.min_cosine < wanted or not found.any(axis=1).all():
        return (
            f"minimum cosine {drift.min_cosine:.6f} against PyTorch's embeddings of {len(found)} "
            f"inputs, {wanted} is required"
        )
    ours, theirs = (np.linalg.norm(rows.astype(np.float64), axis=1) for rows in (found, reference))
    worst = int(np.argmax(np.abs(ours - theirs) / np.maximum(theirs, np.finfo(np.float32).tiny)))
    if abs(ours[worst] - theirs[worst]) <= room * theirs[worst]:
        return ""
    return (
        f"an embedding of length {ours[worst]:.4g}, where PyTorch's is {theirs[worst]:.4g} long; "
        f"{room:.1%} more or less is allowed"
    )


def _spread(rows: np.ndarray) -> float:
    """How far values differ between embeddings [n, embed_dim], as a part of the largest."""
    return float(np.ptp(rows, axis=0).max() / np.abs(rows).max())


def _smallest(tower: Artifact) -> tuple[int, ...]:
    """Batches of a tower that no export could check: the smallest, such as 1 of "1:8:32"."""
    said = tower.options.get("batch", "1").partition(":")[0]
    smallest = int(said) if said.isdecimal() and int(said) else 1
    return (smallest,) * max(1, INPUTS // smallest)


def _reference(path: Path, width: int | str) -> np.ndarray:
    """PyTorch's embeddings, or features, [n, width] of the first inputs."""
    data = read_small(path, MOST_REFERENCE_BYTES)
    try:
        if not data.startswith(np.lib.format.MAGIC_PREFIX):  # np.load takes zips as well
            raise ValueError("no array")
        found: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as exc:
        raise ArtifactError(f"{path} holds no embeddings: {exc}; export the model again") from exc
    if found.ndim != 2 or not len(found) or found.shape[1] != width or found.dtype.kind != "f":
        raise ArtifactError(f"{path} holds no embeddings of this tower; export the model again")
    return found
