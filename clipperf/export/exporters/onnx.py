"""`clipperf export`: from a model to an artifact folder of ONNX towers, checked against PyTorch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines import onnxruntime as ort_engine
from clipperf.errors import ExportError, ParityError, UsageError
from clipperf.export import folder as artifact_folder
from clipperf.export.folder import Exported, Wanted
from clipperf.export.judge import parity
from clipperf.export.judge.inputs import parity_inputs
from clipperf.export.process import dismiss, run_worker, worker
from clipperf.export.worker import reference_name
from clipperf.graph import kept, uint8
from clipperf.graph import trace as onnx_export
from clipperf.graph.widen import runnable_on_cpu
from clipperf.models import zoo
from clipperf.nouns.artifact import Artifact, Parity, TensorSpec
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PRECISIONS as ROWS
from clipperf.nouns.variant import PixelDtype, Side
from clipperf.serialize import from_json, to_json
from clipperf.system import files, store
from clipperf.system.env import available_cores, version_of

RUNTIME = "onnx"
PRECISIONS = ("fp32", "fp16", "bf16")
BASELINE = "fp32"
"""The precision that every other one is judged by."""


def export_model(
    spec: ModelSpec,
    sides: Sequence[Side],
    precision: str = BASELINE,
    *,
    normalized: bool = False,
    pixel_dtype: PixelDtype = "float32",
    out: Path | None = None,
    keep_failed: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Make sure that an artifact folder holds these towers, building what is missing.

    `pixel_dtype` is what the image tower takes; see `graph.uint8`.

    Raises:
        UsageError: `out` holds something else, or an unknown precision.
        WeightsError, ExportError, ParityError, StorageError: see `clipperf.errors`; whatever
            stood in the folder before still stands.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"no precision {precision!r} for ONNX; choose from {', '.join(PRECISIONS)}"
        )
    weights_id = present_weights(spec, on_stage)
    variant = artifact_folder.variant(precision, normalized, pixel_dtype)
    folder = (out or store.artifact_folder(spec, weights_id, RUNTIME, variant)).absolute()
    if out is not None:  # in the store whatever is damaged is built again
        artifact_folder.check_target(folder, spec, RUNTIME)
    wanted = Wanted(
        folder=folder,
        spec=spec,
        runtime=RUNTIME,
        precision=precision,
        weights_id=weights_id,
        keys={
            side: cache_key(spec, weights_id, side, precision, normalized, pixel_dtype)
            for side in sides
        },
        needed_bytes=artifact_folder.weight_bytes(spec, sides, precision),
        normalized=normalized,
    )
    exported = artifact_folder.ensure(
        wanted,
        lambda missing, staging: _build(
            wanted, pixel_dtype, missing, staging, keep_failed, on_stage
        ),
        keep_failed=keep_failed,
        on_stage=on_stage,
    )
    dismiss()
    return exported


def present_weights(spec: ModelSpec, on_stage: Callable[[str], None]) -> str:
    """The id of a model's weights, which are fetched first where they are not on this machine.

    Raises:
        WeightsError: they cannot be fetched.
    """
    weights_id = zoo.weights_id(spec)
    if weights_id is None:
        on_stage(f"fetching the weights of {spec.id}")
        run_worker({"op": "fetch", "spec": to_json(spec)}, spec.id)
        weights_id = zoo.weights_id(spec)
    if weights_id is None:
        raise ExportError(f"the weights of {spec.id} vanished after they were fetched")
    return weights_id


def cache_key(
    spec: ModelSpec,
    weights_id: str,
    side: Side,
    precision: str,
    normalized: bool,
    pixel_dtype: PixelDtype = "float32",
) -> str:
    """A digest of everything that changes an exported tower's bytes."""
    # The id stands for the mean and std, which the tag decides.
    takes_bytes = side == "image" and pixel_dtype == "uint8"
    more = ("uint8", uint8.RECIPE, spec.id) if takes_bytes else ()
    versions = {name: version_of(name) for name in kept.BUILT_WITH}
    return files.digest_of(
        "onnx", store.SCHEMA_VERSION, spec.architecture, weights_id, side, precision,
        normalized, onnx_export.opset(precision), onnx_export.RECIPE, spec.context_tokens,
        versions, *more,
    )  # fmt: skip


def _build(
    wanted: Wanted,
    pixel_dtype: PixelDtype,
    sides: Sequence[Side],
    staging: Path,
    keep_failed: bool,
    on_stage: Callable[[str], None],
) -> list[Artifact]:
    """Export towers in one child process, then check them, when its memory is given back."""
    done: dict[Side, dict[str, Any]] = {}
    digests: dict[Side, Future[dict[str, str]]] = {}
    hashing = ThreadPoolExecutor(1)  # reading gigabytes goes on beside the next stages
    try:
        with worker() as child:
            for side in sides:
                job = {
                    "op": "export",
                    "spec": to_json(wanted.spec),
                    "side": side,
                    "precision": wanted.precision,
                    "normalized": wanted.normalized,
                    "input": pixel_dtype,
                    "folder": str(staging),
                    "threads": available_cores(),
                }
                tell = partial(_tell, on_stage, side)
                done[side] = child.run(job, _label(wanted, side), tell)
                written = artifact_folder.written(staging, side)
                digests[side] = hashing.submit(files.sha256_files, staging, written)
        towers = []
        for side in sides:
            _tell(on_stage, side, "checking parity")
            found = _check_parity(wanted, staging, side, done[side], keep_failed)
            tower = _described(wanted, staging, side, done[side], found, digests[side].result())
            towers.append(tower)
    finally:
        hashing.shutdown(cancel_futures=True)
    return towers


def _tell(on_stage: Callable[[str], None], side: Side, stage: str) -> None:
    on_stage(f"{side} tower: {stage}")


def _label(wanted: Wanted, side: Side) -> str:
    return f"{wanted.spec.id} {side} {wanted.precision}"


def _described(
    wanted: Wanted,
    staging: Path,
    side: Side,
    done: dict[str, Any],
    found: Parity,
    digests: dict[str, str],
) -> Artifact:
    inputs = tuple(from_json(TensorSpec, value) for value in done["inputs"])
    length = inputs[0].shape[1] if side == "text" else None
    return artifact_folder.built_tower(
        wanted,
        staging,
        staging / side / "model.onnx",
        side=side,
        inputs=inputs,
        outputs=tuple(from_json(TensorSpec, value) for value in done["outputs"]),
        tokens=length if isinstance(length, int) else None,
        build_s=done["build_s"],
        peak_rss_bytes=done["peak_rss_bytes"],
        parity=found,
        notes=done["notes"],
        digests=digests,
    )


def _check_parity(
    wanted: Wanted, staging: Path, side: Side, done: dict[str, Any], keep_failed: bool
) -> Parity:
    """Compare an exported tower with PyTorch fp32; notes that its graph is good where it is.

    Raises:
        ParityError: they differ, and failed towers are not to be kept.
    """
    precision, sizes = wanted.precision, done["batches"]
    inputs = parity_inputs(staging, side, done["inputs"][0]["dtype"])
    reference = np.load(staging / reference_name(side))
    with runnable_on_cpu(staging / side / "model.onnx", precision) as path:
        engine = ort_engine.open_session(path, available_cores(), prepack=False)
        try:
            note = ROWS.get(precision).arithmetic
            found = parity.measure(engine, inputs, reference, precision, note, sizes)
        finally:
            engine.close()
            gc.collect()
    if not found.passed and not keep_failed:
        raise ParityError(
            f"{parity.explain(found, _label(wanted, side))}. The artifact was refused; "
            f"--keep-failed keeps it"
        )
    if found.passed and found.batches != parity.PROVEN_BATCHES:
        kept.prove(done["graph"])
    return found
