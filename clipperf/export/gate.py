"""The parity gate that every tower passes before it is stored."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from clipperf.engines import contract
from clipperf.export.job import Built, Job
from clipperf.export.judge import parity
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.artifact import FEATURES_REFERENCE, Parity, reference_name
from clipperf.nouns.cell import Cell, Engine, EngineRequest
from clipperf.serve.features import features_of
from clipperf.serve.parity_inputs import parity_inputs
from clipperf.serve.texts import ends_of, given_lengths


def by_runtime(
    job: Job,
    built: Built,
    note: str = "",
    batches: tuple[int, ...] | None = None,
) -> Parity:
    """Open a tower in the runtime that it is for and compare it with PyTorch fp32.

    Raises:
        EngineError: it does not load or run.
    """
    with closing(opened(job, job.target)) as engine:
        return compared(engine, job, built, note, batches)


def opened(job: Job, path: Path) -> Engine:
    """A job's tower, or a trial of it, in the runtime that it is for: what is judged is what runs.

    Raises:
        EngineError: it does not load.
    """
    variant = job.variant
    runtime = contract.get(variant.runtime)
    cell = Cell(
        *(job.spec.id, job.side, variant.runtime, variant.precision),
        runtime.devices[0],
        batch=1,
        threads=job.threads,
    )
    return runtime.open(EngineRequest(cell, job.spec, str(path), variant.normalized))


def compared(
    engine: Engine,
    job: Job,
    built: Built,
    note: str = "",
    batches: tuple[int, ...] | None = None,
) -> Parity:
    """Compare a tower, open in an engine, with PyTorch fp32 on the first parity inputs.

    Texts that may be cut are, in all batches but the last, as they are in use. `note` adds to the
    words on what was compared; None: batches as usual for the tower's size. Of a tower that gives
    features, too, the worse of both counts.
    """
    inputs = parity_inputs(job.shared, job.side, built.inputs[0].dtype)
    reference = np.load(job.shared / reference_name(job.side))
    sizes = batches or parity.batches_for(job.spec, job.side)
    ends = _ends(job, built, inputs)
    lengths = None if ends is None else given_lengths(engine, ends)
    found = parity.measure(engine, inputs, reference, job.variant.precision, note, sizes, lengths)
    if len(built.outputs) == 1:
        return found
    known = np.load(job.shared / FEATURES_REFERENCE)
    both = _Features(engine)
    other = parity.measure(both, inputs, known, job.variant.precision, f"{note}, features", sizes)
    return other if other.min_cosine < found.min_cosine or not other.finite else found


def compared_at(
    engine: Engine, job: Job, built: Built, tokens: int, note: str, batches: tuple[int, int]
) -> Parity | None:
    """As `compared`, of the texts that fit into `tokens`, cut there, in one batch of `batches`.

    None where no text of the parity inputs does, or the tower's may not be cut.
    """
    inputs = parity_inputs(job.shared, job.side, built.inputs[0].dtype)
    reference = np.load(job.shared / reference_name(job.side))
    ends = _ends(job, built, inputs)
    fitting = (
        np.array([], int) if ends is None else np.flatnonzero(ends[: len(reference)] <= tokens)
    )
    if not fitting.size:
        return None
    low, high = batches
    size = min(max(len(fitting), low), high)
    given = np.ascontiguousarray(inputs[fitting, :tokens])
    said = f"{note}, cut at {tokens} tokens"
    return parity.measure(engine, given, reference[fitting], job.variant.precision, said, (size,))


def _ends(job: Job, built: Built, inputs: np.ndarray) -> np.ndarray | None:
    """Where texts end, int64 [12]; None where they may not be cut."""
    if built.cut is None or built.cut.at is None:
        return None
    ends = ends_of(Tokenizer.from_folder(job.shared), built.cut.at)
    return None if ends is None else ends(inputs)


class _Features:
    """An engine whose features stand in the place of its embeddings."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, array: np.ndarray) -> np.ndarray:
        """The features of a batch, float32 [batch, width]."""
        return features_of(self._engine, array)[1]

    def close(self) -> None:
        """The engine is its owner's to close."""


def refusal(job: Job, built: Built, found: Parity, what: str = "artifact") -> str:
    """Why a tower was refused, and the option that keeps it."""
    said = parity.explain(found, job.label)
    return f"{said}. The {what} was refused; --keep-failed keeps it"
