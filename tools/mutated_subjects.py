"""Files for `mutated_files` to mutate: a tuning, a TensorRT plan, results; nothing was measured."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from clipperf.engines.tensorrt import plan_file
from clipperf.nouns.artifact import PlanInfo, ShapeRange, TensorSpec
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Environment, Measurement, ResultFile, Score
from clipperf.nouns.tuning import Trial, TunedTower, Tuning
from clipperf.serve import tuned
from clipperf.system.env import available_cores, cpu_name
from clipperf.system.files import read_json, sha256_file, sha256_files, write_json
from clipperf.system.store import MANIFEST_NAME, SCHEMA_VERSION, read_manifest

WRITTEN = "2026-01-01T00:00:00Z"


def _environment() -> Environment:
    return Environment(
        id="here",
        cpu=cpu_name(),
        cores=available_cores(),
        ram_bytes=2**34,
        gpu=None,
        vram_bytes=None,
        driver=None,
        os="Linux",
        python="3.12.1",
        versions={"torch": "2.15.0"},
        git_sha=None,
        created_utc=WRITTEN,
    )


def write_tuning(folder: Path, artifact: Path) -> Path:
    """A tuning in `folder` that names an artifact folder for both towers."""
    manifest = read_manifest(artifact)
    towers = []
    for tower in manifest.towers:
        cell = Cell(
            *(manifest.spec.id, tower.side, manifest.runtime, manifest.precision, "cpu"),
            batch=2,
            threads=1,
        )
        towers.append(TunedTower(cell, str(artifact), tower.key, 10.0, (9.0, 11.0), 0.2, 2**28))
    tuning = Tuning(
        SCHEMA_VERSION,
        "tuning",
        "clipperf tune",
        WRITTEN,
        _environment(),
        manifest.spec,
        None,
        1.0,
        60.0,
        50.0,
        tuple(towers),
        tuple(Trial(tower.cell, "", 10.0, (9.0, 11.0), 0.2, 0.1, 64) for tower in towers),
    )
    folder.mkdir()
    path = folder / f"of-a-{tuned.KIND}.json"
    write_json(path, tuning)
    return path


def write_external(folder: Path, artifact: Path) -> Path:
    """A copy of an ONNX artifact in `folder` whose weights lie beside the graphs."""
    import onnx

    shutil.copytree(artifact, folder)
    manifest = read_manifest(artifact)
    towers = []
    for tower in manifest.towers:
        path = folder / tower.path
        beside = f"{path.name}.data"
        onnx.save(onnx.load(path), path, save_as_external_data=True, location=beside)
        names = (tower.path, f"{tower.path}.data")
        size = sum((folder / name).stat().st_size for name in names)
        digests = sha256_files(folder, names)
        towers.append(dataclasses.replace(tower, files=digests, disk_bytes=size))
    write_json(folder / MANIFEST_NAME, dataclasses.replace(manifest, towers=tuple(towers)))
    return folder


def seal(folder: Path) -> None:
    """Have the manifest of an artifact folder say what its small files are now."""
    manifest = read_json(folder / MANIFEST_NAME)
    manifest["files"] = sha256_files(folder, manifest["files"])
    write_json(folder / MANIFEST_NAME, manifest)


PROFILE = ShapeRange("pixel_values", (1, 3, 64, 64), (8, 3, 64, 64), (32, 3, 64, 64))


def write_plan(folder: Path, profiles: tuple[ShapeRange, ...] = (PROFILE,)) -> Path:
    """What has the header of a plan of TensorRT for RTX, and its sidecar."""
    folder.mkdir()
    path = folder / "model.plan"
    header = bytearray(plan_file.HEADER_BYTES)
    header[:4], header[24:28], header[32] = plan_file.MAGIC, bytes((1, 7, 1, 116)), 8
    header[16:24] = (2048).to_bytes(8, "little")
    path.write_bytes(bytes(header) + os.urandom(2048 - len(header)))
    info = PlanInfo(
        schema_version=plan_file.SCHEMA_VERSION,
        flavour="trt-rtx",
        version="1.7.1.116",
        model_id="m::w",
        side="image",
        precision="fp16",
        inputs=(TensorSpec("pixel_values", "float32", ("batch", 3, 64, 64)),),
        outputs=(TensorSpec("image_embeds", "float32", ("batch", 192)),),
        profile=profiles,
        targets=("sm89",),
        gpu=None,
        options={"hardware_compat": "none"},
        onnx_sha256="0" * 64,
        plan_sha256=sha256_file(path),
        plan_bytes=2048,
        build_s=3.0,
        peak_rss_bytes=None,
        created_utc=WRITTEN,
    )
    plan_file.write(path, info)
    return path


def write_result(folder: Path) -> Path:
    """Results of two runtimes: times, memory and scores."""
    measurements, scores = [], []
    for runtime, factor in (("torch", 1.0), ("onnx", 0.5)):
        cell = Cell("m::w", "image", runtime, "fp32", "cpu", batch=1, threads=2)
        samples = tuple(factor * (0.02 + 0.0001 * i) for i in range(70))
        common = {"cell": cell, "status": "ok", "env_id": "here", "load_s": 0.4}
        measurements.append(
            Measurement(
                kind="time",
                run_s=samples,
                blocks=tuple(i // 7 for i in range(70)),
                group="g",
                stable=True,
                disk_bytes=2**20,
                first_run_s=0.1,
                **common,  # type: ignore[arg-type]
            )
        )
        measurements.append(
            Measurement(
                kind="memory",
                rss_bare_bytes=2**23,
                rss_load_peak_bytes=2**27,
                rss_source="VmHWM",
                rss_run_peak_bytes=2**27,
                rss_peak_bytes=2**27,
                **common,  # type: ignore[arg-type]
            )
        )
        scores.append(
            Score(
                cell, "sample", "0" * 64, "top1", 0.8, 100, (0.7, 0.9), "torch", 0.8, env_id="here"
            )
        )
    path = folder / "results.json"
    write_json(
        path,
        ResultFile(
            SCHEMA_VERSION,
            "profile",
            "clipperf profile",
            WRITTEN,
            (_environment(),),
            tuple(measurements),
            tuple(scores),
        ),
    )
    return path
