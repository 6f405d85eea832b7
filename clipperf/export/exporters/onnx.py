"""ONNX towers in floating numbers, traced by PyTorch from the weights."""

from __future__ import annotations

import gc
from contextlib import closing

from clipperf.engines import onnxruntime as ort_engine
from clipperf.export import gate
from clipperf.export.exporter import Below, Exporter
from clipperf.export.job import Built, Job, Tell
from clipperf.export.judge import halves
from clipperf.graph import features, kept, trace, uint8
from clipperf.graph.widen import runnable_on_cpu
from clipperf.nouns.artifact import Parity
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import FLOAT16, Side, Variant
from clipperf.system import files, store


def key(spec: ModelSpec, side: Side, variant: Variant, below: Below) -> str:
    """See `Exporter`; `below` are the weights."""
    # The id stands for the mean and std, which the tag decides.
    takes_bytes = side == "image" and variant.pixel_dtype == "uint8"
    more: tuple[object, ...] = ("uint8", uint8.RECIPE, spec.id) if takes_bytes else ()
    more += ("features", features.RECIPE) if side == "image" and variant.features else ()
    more += ("halves", halves.RECIPE) if variant.row.floats == FLOAT16 else ()
    more += ("portable",) if side == "text" and variant.portable else ()
    return files.digest_of(
        "onnx", store.SCHEMA_VERSION, spec.family, spec.architecture, below.key, side,
        variant.precision, variant.normalized, trace.opset(variant.precision), trace.RECIPE,
        spec.image_px, spec.context_tokens, kept.versions(spec), *more,
    )  # fmt: skip


def make(job: Job, tell: Tell) -> Built:
    """See `Exporter`."""
    from clipperf.export.jobs.tower import traced

    return traced(job, tell)


def checked(job: Job, built: Built) -> Parity:
    """Compare a tower with PyTorch fp32; a graph that fails is not kept for other weights.

    One in fp16 passes only where its emulation does, too: this machine's CPU need not round as a
    GPU does.
    """
    row, passed = job.variant.row, False
    try:
        with (
            runnable_on_cpu(job.target, row.name) as path,
            closing(ort_engine.open_session(path, job.threads, prepack=False)) as engine,
        ):
            found = gate.compared(engine, job, built, row.arithmetic)
        passed = found.passed
    finally:
        gc.collect()
        if not passed and built.graph is not None:
            kept.forget(built.graph)
    emulated = built.emulated
    return emulated if passed and emulated is not None and not emulated.passed else found


EXPORTER = Exporter(
    name="onnx",
    makes={"onnx": ("fp32", "fp16", "bf16")},
    file="model.onnx",
    key=key,
    job=make,
    shares_process=True,
    gate=checked,
    features=True,
)
