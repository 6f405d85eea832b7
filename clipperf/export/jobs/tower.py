"""One tower traced by PyTorch, with what its parity check needs. Runs in an export's process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipperf.errors import ExportError
from clipperf.export.job import Built, Job, Tell
from clipperf.inputs.preprocess_spec import PREPROCESS_FILE, PreprocessSpec
from clipperf.models.family import family_of
from clipperf.models.features import both, has_projection
from clipperf.nouns.artifact import (
    FEATURES_NAME,
    FEATURES_REFERENCE,
    Cut,
    TensorSpec,
    reference_name,
)
from clipperf.nouns.model import ModelSpec, Tower
from clipperf.nouns.variant import FLOAT16, Side
from clipperf.system.files import write_json

if TYPE_CHECKING:
    import torch


def traced(job: Job, tell: Tell) -> Built:
    """Export one tower into the job's folder, with PyTorch's embeddings of the first inputs.

    Raises:
        WeightsError, ExportError, StorageError: see `clipperf.errors`.
    """
    import numpy as np
    import torch

    from clipperf.export.judge import halves, parity
    from clipperf.export.judge import reference as references
    from clipperf.graph import trace
    from clipperf.models.cutting import cut_of
    from clipperf.models.lean import first_token
    from clipperf.models.vocabulary import fitted
    from clipperf.serve.parity_inputs import parity_inputs, write_inputs

    spec, side, folder, variant = job.spec, job.side, Path(job.folder), job.variant
    family = family_of(spec)
    torch.set_num_threads(job.threads)
    tell("preparing")
    pixels = write_settings(spec, side, folder)
    write_inputs(folder)
    takes_bytes = pixels if side == "image" and variant.pixel_dtype == "uint8" else None
    inputs = torch.from_numpy(parity_inputs(folder, side))
    tell("building")
    tower = family.build(spec, side, variant.normalized)
    cut, known = None, tower.dynamic_tokens
    if side == "text":
        tokenizer = fitted(spec.id, tower.module, folder)
        cut = cut_of(tower, tokenizer)
        start = None if variant.portable else tokenizer.start_id
        tower = replace(tower, start_id=start, dynamic_tokens=cut.at is not None)
    tell("reference")
    with torch.inference_mode():
        judged = inputs[: sum(parity.batches_for(spec, side))]
        pairs = judged.split(2)  # few at a time: activations are memory, too
        reference = torch.cat([tower.module(pair) for pair in pairs])
        weights = tower.module.state_dict()
        references.check(reference.numpy(), judged.numpy(), weights, job.label)
        suspect = variant.row.floats == FLOAT16 and _suspect(tower, pairs[0], job.label)
        width = _features(tower, pairs, folder) if side == "image" and variant.features else None
    np.save(folder / reference_name(side), reference.numpy())
    tell("exporting")
    gives = width if width is not None and has_projection(tower.module.model) else None
    written = partial(_written, job=job, takes_bytes=takes_bytes, features=gives)
    try:
        key, joined = written(tower)
    except ExportError as exc:
        if cut is None or cut.at is None or known:
            raise
        cut = Cut(None, f"torch's exporter takes texts of one length alone: {exc}")
        tower = replace(tower, dynamic_tokens=False)
        key, joined = written(tower)
    given, produced = trace.io_specs(tower, variant.pixel_dtype)
    saved = None
    if suspect:
        tell("looking for what fp16 cannot hold")
        same = parity_inputs(folder, side, given.dtype)[: len(reference)]
        saved = halves.save(job.target, same, reference.numpy(), job.threads, variant.row.name)
    length = given.shape[1] if side == "text" else None
    more = () if gives is None else (TensorSpec(FEATURES_NAME, "float32", ("batch", gives)),)
    return Built(
        (given,),
        (produced, *more),
        tokens=length if isinstance(length, int) else None,
        first_token=first_token(tower.module, tower.start_id),
        graph=key,
        assumptions=dict(tower.assumptions),
        cut=cut,
        similarity=tower.similarity,
        joined=joined,
        features=width,
        in_fp32=() if saved is None else saved.kept,
        emulated=None if saved is None else saved.parity,
    )


def _suspect(tower: Tower, inputs: torch.Tensor, label: str) -> bool:
    """Whether a tower comes near to what fp16 holds.

    Raises:
        ExportError: its weights go beyond it.
    """
    from clipperf.export.judge import halves

    if large := halves.weights_beyond(tower.module):
        raise ExportError(
            f"{label}: {len(large)} weights, such as {large[0]}, are larger than {halves.LARGEST:g}"
            ", which is all that fp16 holds: export the model with --precision bf16 or fp32"
        )
    return halves.largest_activation(tower.module, inputs) > halves.SUSPECT


def _features(tower: Tower, batches: Sequence[torch.Tensor], folder: Path) -> int:
    """Keep PyTorch's features of the first inputs; returns how many there are of an image."""
    import numpy as np

    found = np.concatenate([both(tower.module, batch)[1].numpy() for batch in batches])
    np.save(folder / FEATURES_REFERENCE, found)
    return int(found.shape[1])


def _written(
    tower: Tower, job: Job, takes_bytes: PreprocessSpec | None, features: int | None
) -> tuple[str, int]:
    """Write the graph of a tower; the key of its kept graph, and how many parts were joined."""
    from clipperf.graph import trace

    variant, config = job.variant, family_of(job.spec).config(job.spec)
    key = trace.graph_key(tower, variant.normalized, variant.precision, config)
    made = trace.export_onnx(tower, job.target, variant.precision, key, takes_bytes, features)
    return key, made


def write_settings(spec: ModelSpec, side: Side, folder: Path) -> PreprocessSpec:
    """Write the files that say how a model's inputs are made; returns how images are."""
    family = family_of(spec)
    pixels = family.pixels(spec)
    write_json(folder / PREPROCESS_FILE, pixels.to_json())
    if side == "text":
        family.write_tokenizer(spec, folder)
    return pixels
