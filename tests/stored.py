"""A store of small artifacts, tunings, results and caches, as the commands write them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.artifact import Artifact, Manifest, TensorSpec
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment, Measurement, ResultFile
from clipperf.nouns.tuning import TunedTower, Tuning
from clipperf.nouns.variant import Side
from clipperf.system import files, store
from clipperf.system.sealed import CHECKSUMS, GRAPH_MARK, folder_sums, sealed
from clipperf.system.temporaries import PREFIX

MODEL = "ViT-B-32::openai"
ENVIRONMENT = Environment("e", "cpu", 2, 2**33, None, None, None, "os", "3", {}, None, "now")


def spec_of(model: str = MODEL) -> ModelSpec:
    architecture, _, pretrained = model.partition("::")
    return ModelSpec(model, "open_clip", architecture, pretrained, 224, 77, 512)


def artifact(
    model: str = MODEL,
    weights: str = "w",
    *,
    runtime: str = "onnx",
    precision: str = "fp32",
    sides: Sequence[Side] = ("image", "text"),
    created: str = "2026-01-01T00:00:00Z",
    content: bytes = b"weights",
) -> Path:
    """An artifact folder of the store, whose towers are files of these bytes."""
    spec = spec_of(model)
    folder = store.artifact_folder(spec, weights, runtime, precision)
    towers = []
    for side in sides:
        path = folder / side / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content + side.encode())
        towers.append(
            Artifact(
                model_id=spec.id,
                side=side,
                runtime=runtime,
                precision=precision,
                path=f"{side}/model.onnx",
                disk_bytes=path.stat().st_size,
                files={f"{side}/model.onnx": files.sha256_file(path)},
                inputs=(TensorSpec("in", "float32", ("batch", 3, 224, 224)),),
                outputs=(TensorSpec("out", "float32", ("batch", 512)),),
                normalized=False,
                tokens=None,
                key=f"{weights}-{side}-{runtime}-{precision}",
                weights_id=weights,
                build_s=1.0,
                peak_rss_bytes=None,
                built_with={},
                parity=None,
            )
        )
    (folder / "preprocess.json").write_text(json.dumps(PreprocessSpec().to_json()))
    manifest = Manifest(
        schema_version=store.SCHEMA_VERSION,
        spec=spec,
        runtime=runtime,
        precision=precision,
        preprocess={},
        tokenizer={},
        files=files.sha256_files(folder, ["preprocess.json"]),
        towers=tuple(towers),
        created_utc=created,
        clipperf_version="0",
    )
    files.write_json(folder / store.MANIFEST_NAME, manifest)
    return folder


def tuning(folder: Path, path: Path | None = None) -> Path:
    """A tuning that names the image tower of an artifact."""
    manifest = store.read_manifest(folder)
    tower = manifest.tower("image")
    assert tower is not None
    path = path or store.tuning_path(manifest.spec, ("image", "text"))
    cell = Cell(manifest.spec.id, "image", manifest.runtime, manifest.precision, "cpu", 8, 2)
    seen = os.path.relpath(folder, path.parent)
    chosen = TunedTower(cell, seen, tower.key, 100.0, None, 0.1, None)
    files.write_json(
        path,
        Tuning(
            store.SCHEMA_VERSION, "tuning", "clipperf tune", "now", ENVIRONMENT, manifest.spec,
            None, 0.5, 60.0, 12.0, (chosen,), (),
        ),
    )  # fmt: skip
    return path


def result(model: str = MODEL, runtime: str = "onnx", precision: str = "fp32") -> Path:
    """A result that was measured with a model in a runtime and precision."""
    cell = Cell(model, "image", runtime, precision, "cpu", 8, 2)
    row = Measurement(cell, "time", "ok", "e", run_s=(0.1,), blocks=(0,))
    path = store.new_result_path("profile")
    found = ResultFile(
        store.SCHEMA_VERSION, "profile", "clipperf profile", "now", (ENVIRONMENT,), (row,)
    )
    store.write_result(path, found)
    return path


def caches() -> dict[str, Path]:
    """One of each kind of cache, by a name of ours."""
    home = store.home()
    written = {
        "graph": (home / "graphs" / "0123.onnx", sealed(b"graph", GRAPH_MARK)),
        "embeddings": (home / "embeddings" / "who" / "part.npy", sealed(b"embeddings")),
        "probe": (home / "probes" / "0123.npy", sealed(b"probe")),
        "kernels": (home / "cache" / "key-sm89.kernels", b"kernels"),
        "compiled": (home / "cache" / "openvino-0123" / "1.blob", b"compiled"),
    }
    for path, content in written.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    compiled = written["compiled"][0].parent
    files.write_json(compiled / CHECKSUMS, folder_sums(compiled))
    return {name: path for name, (path, _) in written.items()}


def dead_staging(beside: Path) -> Path:
    """What an export that was killed left beside its folder."""
    left = beside.with_name(f"{PREFIX}99999-0123abcd-{beside.name}")
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half of a tower")
    return left


def change_manifest(folder: Path, **values: object) -> None:
    """Write an artifact's manifest anew with other values."""
    manifest = dataclasses.replace(store.read_manifest(folder), **values)  # type: ignore[arg-type]
    files.write_json(folder / store.MANIFEST_NAME, manifest)
