"""`clipperf inspect`: what a plan, an ONNX file or a folder of clipperf's is, and if it runs here.

Nothing is written or loaded into a runtime: plans are read by header and sidecar, ONNX files
without external data. `Inspection.problems` is damage, `obstacle` what this machine lacks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clipperf import units
from clipperf.engines import contract, processor
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.errors import ArtifactError, UsageError
from clipperf.inspect import onnx_file
from clipperf.inspect.inspection import Inspection
from clipperf.nouns.artifact import LAYOUT_RECORD, Artifact, Layout, is_inside
from clipperf.nouns.variant import PRECISIONS
from clipperf.system import store
from clipperf.system.files import sha256_file
from clipperf.system.reading import regular_bytes
from clipperf.system.targets import kind_of


def inspect(path: Path) -> Inspection:
    """Look at a plan, an ONNX file, an artifact folder or a layout; damage is reported, not raised.

    Raises:
        UsageError: there is nothing at `path`, or nothing that clipperf knows.
    """
    kind = kind_of(path)
    if kind == "nothing":
        raise UsageError(f"{path} does not exist: give a plan, an ONNX file or an artifact folder")
    if kind == "folder" and kind_of(path / store.MANIFEST_NAME) != "nothing":
        return _artifact(path)
    if kind == "folder" and kind_of(path / LAYOUT_RECORD) != "nothing":
        return _layout(path)
    if kind != "file":
        raise UsageError(
            f"{path} is no file, no artifact folder (it has no {store.MANIFEST_NAME}) and no "
            f"layout (no {LAYOUT_RECORD})"
        )
    if path.suffix == ".onnx":
        return replace(onnx_file.look(path), obstacle=_obstacle("onnx"))
    if path.suffix == ".xml":
        return _openvino(path)
    if _is_plan(path):
        return _plan(path)
    raise UsageError(
        f"{path} is no TensorRT plan with its sidecar, no ONNX file (.onnx), no OpenVINO IR (.xml) "
        f"and no artifact folder"
    )


def _is_plan(path: Path) -> bool:
    known = path.suffix in (".plan", ".engine") or kind_of(plan_file.sidecar_path(path)) == "file"
    return known or plan_file.read_header(path) is not None


# --- plans ---------------------------------------------------------------------------------


def _plan(path: Path) -> Inspection:
    found = path.stat().st_size
    problems = tuple(plan_file.damage(path))
    try:
        info = plan_file.read(path)
    except ArtifactError:
        header = plan_file.read_header(path)
        facts = (
            {}
            if header is None
            else {
                "flavour": flavours.TITLES["trt-rtx"],
                "version": header.version,
                "targets": ", ".join(header.targets),
            }
        )
        return Inspection(str(path), "plan", found, facts=facts, problems=problems)
    facts = {
        "model": f"{info.model_id} {info.side}",
        "flavour": f"{flavours.TITLES[info.flavour]} ({info.flavour})",
        "version": info.version,
        "targets": ", ".join(info.targets),
        "built on": info.gpu or "ahead of time, without a GPU",
        **info.options,
        "source ONNX sha256": info.onnx_sha256,
        "build": f"{units.seconds(info.build_s)}, peak RAM {units.size(info.peak_rss_bytes)}",
        "created": info.created_utc,
    }
    return Inspection(
        str(path), "plan", found, info.precision, info.inputs, info.outputs, info.profile,
        facts, problems, plan_file.obstacle(info, flavours.gpu_kind()),
    )  # fmt: skip


# --- OpenVINO ------------------------------------------------------------------------------


def _openvino(path: Path) -> Inspection:
    from xml.etree import ElementTree

    weights = path.with_suffix(".bin")
    weight_bytes = regular_bytes(weights)
    found = path.stat().st_size + (weight_bytes or 0)
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError:
        root = None
    if root is None or root.tag != "net":
        problem = f"{path} is no OpenVINO IR, or is cut off: export the model again"
        return Inspection(str(path), "openvino", found, problems=(problem,))
    missing = f"{weights}, which holds weights of {path.name}, is missing"
    layers = [layer.get("type") for layer in root.iter("layer")]
    return Inspection(
        str(path),
        "openvino",
        found,
        facts={
            "IR version": root.get("version") or "not said",
            "layers": str(len(layers)),
            "rounded to int8 and back": str(layers.count("FakeQuantize")),
            "weights in": weights.name,
        },
        problems=(missing,) if weight_bytes is None else (),
        obstacle=_obstacle("openvino"),
    )


# --- layouts -------------------------------------------------------------------------------


def _layout(folder: Path) -> Inspection:
    path, size = folder / LAYOUT_RECORD, 0
    fix = "run the same clipperf export --layout again"
    try:
        record = store.record_of(Layout, store.read_versioned(path, fix), path, fix)
    except ArtifactError as exc:
        return Inspection(str(folder), "layout", 0, problems=(str(exc),))
    problems = []
    for name, digest in record.files.items():
        found = regular_bytes(folder / name) if is_inside(name) else None
        size += found or 0
        if found is None:
            problems.append(f"{folder / name} is missing: {fix}")
        elif sha256_file(folder / name) != digest:
            problems.append(f"{folder / name} was altered, by its sha256: {fix}")
    facts = {
        "layout": record.layout,
        "model": record.spec.id,
        "licence": record.spec.licence or "not known",
        "towers": ", ".join(record.sides),
        "written by": f"clipperf {record.clipperf_version}, {record.created_utc}",
    }
    return Inspection(
        str(folder), "layout", size, ", ".join(record.precisions), facts=facts,
        problems=tuple(problems), obstacle=f"{record.layout} opens it, not clipperf",
    )  # fmt: skip


# --- artifact folders ----------------------------------------------------------------------


def _artifact(folder: Path) -> Inspection:
    try:
        manifest = store.read_manifest(folder)
    except ArtifactError as exc:
        size = sum(regular_bytes(path) or 0 for path in folder.rglob("*"))
        return Inspection(str(folder), "artifact", size, problems=(str(exc),))
    problems = store.check_files(folder, manifest, content=True, remember=False)
    facts = {
        "model": manifest.spec.id,
        "licence": manifest.spec.licence or "not known",
        "runtime": manifest.runtime,
        "towers": ", ".join(tower.side for tower in manifest.towers),
        "written by": f"clipperf {manifest.clipperf_version}, {manifest.created_utc}",
    }
    parts = []
    lacking = [_lacks(tower) for tower in manifest.towers]
    for tower in manifest.towers:
        if regular_bytes(folder / tower.path) is not None:
            facts |= {f"{tower.side}: {name}": said for name, said in tower.findings.items()}
            runtime = contract.RUNTIMES.find(tower.runtime)
            if runtime is not None and (problem := runtime.warning(tower)) is not None:
                facts[f"{tower.side}: accuracy here"] = problem
            part = replace(
                _tower(folder / tower.path, tower),
                precision=tower.precision,
                inputs=tower.inputs,
                outputs=tower.outputs,
            )
            parts.append(part)
            problems += [text for text in part.problems if text not in problems]
    return Inspection(
        str(folder),
        "artifact",
        sum(tower.disk_bytes for tower in manifest.towers),
        manifest.precision,
        facts=facts,
        problems=tuple(problems),
        obstacle=next((o for o in (*(p.obstacle for p in parts), *lacking) if o), None),
        parts=tuple(parts),
    )


def _tower(path: Path, tower: Artifact) -> Inspection:
    """A tower's model file; where that cannot be looked into here, its size alone.

    It may be none of clipperf's own kinds, or take a package that only exports need.
    """
    try:
        return inspect(path)
    except (UsageError, ModuleNotFoundError):
        return Inspection(str(path), "tower", tower.disk_bytes, obstacle=_obstacle(tower.runtime))


def _lacks(tower: Artifact) -> str | None:
    """What the processor lacks to multiply a tower's precision where it would run it."""
    runtime, row = contract.RUNTIMES.find(tower.runtime), PRECISIONS.find(tower.precision)
    if runtime is None or row is None or runtime.devices[0] != "cpu":
        return None
    return processor.lacks(row, runtime.precisions)


def _obstacle(name: str) -> str | None:
    """What this machine lacks to run towers of a runtime where it usually runs; None: nothing."""
    runtime = contract.RUNTIMES.find(name)
    if runtime is None:
        return f"the runtime {name} is not installed"
    found = runtime.availability(runtime.devices[0])
    return None if found.usable else f"{found.detail}: {found.fix}"
