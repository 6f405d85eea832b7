"""`clipperf export`: from a model to an artifact folder, cached, locked, gated, all or nothing."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import clipperf
from clipperf import errors, files, store
from clipperf.engines import onnxruntime as ort_engine
from clipperf.env import available_cores, installed_versions, version_of
from clipperf.errors import ArtifactError, ExportError, ParityError, StorageError, UsageError
from clipperf.export import onnx as onnx_export
from clipperf.export import parity
from clipperf.export.worker import INPUTS_NAME, REFERENCE_NAME
from clipperf.models import zoo
from clipperf.serialize import from_json, to_json
from clipperf.types import Artifact, Manifest, ModelSpec, Side, TensorSpec

RUNTIME = "onnx"
PRECISIONS = tuple(parity.REQUIRED_MIN_COSINE)

SHARED_FILES = ("preprocess.json", "tokenizer.json", "tokenizer_config.json")

BUILT_WITH = ("torch", "open_clip_torch", "onnx", "onnxscript")
"""Packages whose version can change the exported bytes; part of the cache key."""


@dataclass(frozen=True)
class Exported:
    """What an export left: the folder, its manifest, and which sides were built just now."""

    folder: Path
    manifest: Manifest
    built: tuple[Side, ...]

    @property
    def up_to_date(self) -> bool:
        """Whether nothing had to be built."""
        return not self.built


def export_model(
    spec: ModelSpec,
    sides: Sequence[Side],
    precision: str = "fp32",
    *,
    normalized: bool = False,
    out: Path | None = None,
    keep_failed: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Make sure that an artifact folder holds these towers, building what is missing.

    Raises:
        UsageError: `out` holds something else, or an unknown precision.
        WeightsError, ExportError, ParityError, StorageError: see `clipperf.errors`; whatever
            stood in the folder before still stands.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"no precision {precision!r} for ONNX; choose from {', '.join(PRECISIONS)}"
        )
    weights_id = zoo.weights_id(spec)
    if weights_id is None:
        on_stage(f"fetching the weights of {spec.id}")
        _run_worker({"op": "fetch", "spec": to_json(spec)}, lambda stage: None)
        weights_id = zoo.weights_id(spec)
        if weights_id is None:
            raise ExportError(f"the weights of {spec.id} vanished after they were fetched")
    variant = precision + ("-normalized" if normalized else "")
    folder = (out or store.artifact_folder(spec, weights_id, RUNTIME, variant)).absolute()
    keys = {side: cache_key(spec, weights_id, side, precision, normalized) for side in sides}
    if out is not None:  # in the store whatever is damaged is built again
        check_target(folder, spec)
    with files.locked(folder):
        # Towers of other weights or options cannot share a folder with the new ones.
        kept = {
            s: t
            for s, t in current_towers(folder).items()
            if t.key == keys.get(s, t.key)
            and t.weights_id == weights_id
            and t.precision == precision
            and t.normalized == normalized
            and (keep_failed or t.parity is None or t.parity.passed)
        }
        missing = [side for side in sides if side not in kept]
        if not missing:
            return Exported(folder, store.read_manifest(folder), ())
        check_space(folder, spec, missing, precision)
        with files.staged(folder) as staging:
            for tower in kept.values():
                _carry_over(folder, staging, tower)
            towers = dict(kept)
            for side in missing:
                towers[side] = _build(
                    spec, side, precision, normalized, weights_id, keys[side], staging,
                    keep_failed, on_stage,
                )  # fmt: skip
            for name in SHARED_FILES:
                if not (staging / name).exists() and (folder / name).exists():
                    shutil.copy2(folder / name, staging / name)
            manifest = _manifest(spec, precision, staging, towers)
            files.write_json(staging / store.MANIFEST_NAME, manifest)
        for tower in manifest.towers:
            for name, digest in tower.files.items():
                store.remember_sha256(folder / name, digest)
    return Exported(folder, manifest, tuple(missing))


def cache_key(
    spec: ModelSpec, weights_id: str, side: Side, precision: str, normalized: bool
) -> str:
    """A digest of everything that changes an exported tower's bytes."""
    versions = {name: version_of(name) for name in BUILT_WITH}
    return files.digest_of(
        "onnx", store.SCHEMA_VERSION, spec.architecture, weights_id, side, precision,
        normalized, onnx_export.OPSET, spec.context_tokens, versions,
    )  # fmt: skip


def check_target(folder: Path, spec: ModelSpec) -> None:
    """Refuse to replace a folder that is not an artifact of the same architecture.

    Raises:
        UsageError: the folder holds something else.
    """
    if not folder.exists() or not any(folder.iterdir() if folder.is_dir() else [folder]):
        return
    try:
        found = store.read_manifest(folder).spec
    except ArtifactError as exc:
        raise UsageError(
            f"{folder} already exists and is no clipperf artifact; choose another --out"
        ) from exc
    if found.architecture != spec.architecture:
        raise UsageError(f"{folder} holds {found.id}; choose another --out, or remove it first")


def check_space(folder: Path, spec: ModelSpec, sides: Sequence[Side], precision: str) -> None:
    """Fail before the work, not after it, where the towers cannot fit on the disk.

    Raises:
        StorageError: less space is free than the weights take.
    """
    count = {"image": spec.image_parameters or 0, "text": spec.text_parameters or 0}
    needed = sum(count[side] for side in sides) * (2 if precision == "fp16" else 4)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise StorageError(
            f"{spec.id} needs {needed / 2**20:.0f} MiB at {folder.parent}, only "
            f"{free / 2**20:.0f} MiB are free. Free some space, or choose another disk with "
            f"--out or CLIPPERF_HOME"
        )


def current_towers(folder: Path) -> dict[Side, Artifact]:
    """The intact towers of an artifact folder; none where it does not exist or is damaged."""
    try:
        manifest = store.read_manifest(folder)
    except ArtifactError:
        return {}
    if store.check_files(folder, manifest, content=True):
        return {}
    return {tower.side: tower for tower in manifest.towers}


def _carry_over(folder: Path, staging: Path, tower: Artifact) -> None:
    for name in tower.files:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / name, staging / name)
        except OSError:  # no hard links on this file system
            shutil.copy2(folder / name, staging / name)


def _build(
    spec: ModelSpec,
    side: Side,
    precision: str,
    normalized: bool,
    weights_id: str,
    key: str,
    staging: Path,
    keep_failed: bool,
    on_stage: Callable[[str], None],
) -> Artifact:
    job = {
        "op": "export",
        "spec": to_json(spec),
        "side": side,
        "precision": precision,
        "normalized": normalized,
        "folder": str(staging),
        "threads": available_cores(),
    }
    done = _run_worker(job, lambda stage: on_stage(f"{side} tower: {stage}"))
    on_stage(f"{side} tower: checking parity")
    found = _check_parity(staging, side, precision)
    label = f"{spec.id} {side} {precision}"
    if not found.passed and not keep_failed:
        raise ParityError(
            f"{parity.explain(found, label)}. The artifact was refused; --keep-failed keeps it"
        )
    paths = sorted(p for p in (staging / side).rglob("*") if p.is_file())
    inputs = tuple(from_json(TensorSpec, value) for value in done["inputs"])
    length = inputs[0].shape[1] if side == "text" else None
    return Artifact(
        model_id=spec.id,
        side=side,
        runtime=RUNTIME,
        precision=precision,
        path=f"{side}/model.onnx",
        disk_bytes=sum(p.stat().st_size for p in paths),
        files={str(p.relative_to(staging).as_posix()): files.sha256_file(p) for p in paths},
        inputs=inputs,
        outputs=tuple(from_json(TensorSpec, value) for value in done["outputs"]),
        normalized=normalized,
        tokens=length if isinstance(length, int) else None,
        key=key,
        weights_id=weights_id,
        build_s=done["build_s"],
        peak_rss_bytes=done["peak_rss_bytes"],
        built_with=installed_versions(),
        parity=found,
    )


def _check_parity(staging: Path, side: Side, precision: str) -> Any:
    inputs = np.load(staging / INPUTS_NAME)
    reference = np.load(staging / REFERENCE_NAME)
    engine = ort_engine.open_session(
        staging / side / "model.onnx", available_cores(), prepack=False
    )
    try:
        return parity.measure(engine, inputs, reference, precision)
    finally:
        engine.close()
        gc.collect()
        for name in (INPUTS_NAME, REFERENCE_NAME):
            (staging / name).unlink()


def _manifest(
    spec: ModelSpec, precision: str, staging: Path, towers: dict[Side, Artifact]
) -> Manifest:
    def settings(name: str) -> dict[str, Any]:
        path = staging / name
        return dict(files.read_json(path)) if path.exists() else {}

    present = [name for name in SHARED_FILES if (staging / name).exists()]
    return Manifest(
        schema_version=store.SCHEMA_VERSION,
        spec=spec,
        runtime=RUNTIME,
        precision=precision,
        preprocess=settings("preprocess.json"),
        tokenizer=settings("tokenizer_config.json"),
        files={name: files.sha256_file(staging / name) for name in present},
        towers=tuple(towers[s] for s in ("image", "text") if s in towers),
        created_utc=files.utc_now(),
        clipperf_version=clipperf.__version__,
    )


def _run_worker(job: dict[str, Any], on_stage: Callable[[str], None]) -> dict[str, Any]:
    """Run one job in a child process and return its outcome.

    Raises:
        ClipperfError: of the kind that the child reports, or ExportError where it died.
    """
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "clipperf.export.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as child,
    ):
        try:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(json.dumps(job))
            child.stdin.close()
            answer: dict[str, Any] = {}
            for line in child.stdout:
                answer = json.loads(line)
                if "stage" in answer:
                    on_stage(answer["stage"])
            code = child.wait()
        except BaseException:
            child.kill()
            raise
        if "done" in answer:
            return dict(answer["done"])
        if "error" in answer:
            raise getattr(errors, answer["kind"], ExportError)(answer["error"])
        stderr.seek(0)
        tail = stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        what = f"{job['spec']['id']} {job.get('side', '')}".strip()
        ended = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"exited {code}"
        raise ExportError(f"{what}: the export process {ended}: {' '.join(tail) or 'no message'}")
