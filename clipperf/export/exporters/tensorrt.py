"""`clipperf export --runtime trt`: from the ONNX artifact to a folder of TensorRT engines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines import contract
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.errors import ArtifactError, ParityError, UsageError
from clipperf.export import engine_graphs
from clipperf.export import folder as artifact_folder
from clipperf.export.folder import Exported, Wanted
from clipperf.export.judge import parity
from clipperf.export.judge.inputs import parity_inputs
from clipperf.export.plan_options import (
    BuildOptions,
    check_kinds,
    check_support,
    targeted,
    token_range,
)
from clipperf.export.process import run_worker
from clipperf.export.worker import reference_name
from clipperf.models import zoo
from clipperf.nouns.artifact import Artifact, Parity, PlanInfo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side
from clipperf.serialize import from_json, to_json
from clipperf.system import files, store
from clipperf.system.env import available_cores, gpu


def export_engine(
    spec: ModelSpec,
    sides: Sequence[Side],
    options: BuildOptions,
    *,
    normalized: bool = False,
    out: Path | None = None,
    keep_failed: bool = False,
    verbose: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Make sure that a folder holds TensorRT engines of these towers, building what is missing.

    The ONNX artifact they are built from is exported first where it does not exist. On a machine
    whose GPU they run on, they pass the parity gate; elsewhere their `parity` stays None.

    Raises:
        UsageError: the options do not fit this flavour of TensorRT, or `out` holds something else.
        MissingDependencyError: the flavour is not installed.
        ExportError, ParityError, StorageError, WeightsError: see `clipperf.errors`; whatever
            stood in the folder before still stands.
    """
    options = complete(options, spec)
    if out is not None:
        artifact_folder.check_target(out.absolute(), spec, options.flavour)
    source = engine_graphs.export_graph(
        spec, sides, options.precision, normalized, options.pixel_dtype, on_stage
    )
    graphs = {tower.side: tower for tower in source.manifest.towers if tower.side in sides}
    weights_id = graphs[sides[0]].weights_id
    folder = (out or engine_folder(spec, weights_id, options, normalized)).absolute()
    wanted = Wanted(
        folder=folder,
        spec=spec,
        runtime=options.flavour,
        precision=options.precision,
        weights_id=weights_id,
        keys={side: cache_key(graphs[side], options) for side in sides},
        needed_bytes={side: graphs[side].disk_bytes for side in sides},
        normalized=normalized,
        options=described(options),
    )

    def build_side(side: Side, staging: Path) -> Artifact:
        return _build(
            wanted, options, graphs[side], source.folder, staging, keep_failed, verbose, on_stage
        )

    return artifact_folder.ensure(
        wanted,
        lambda missing, staging: (build_side(side, staging) for side in missing),
        shared_from=source.folder,
        keep_failed=keep_failed,
        on_stage=on_stage,
    )


def precisions(flavour: str) -> list[str]:
    """The precisions of a flavour whose ONNX graph can be exported."""
    known = contract.get(flavour).precisions
    return [name for name in known if engine_graphs.can_export(name)]


def find_engines(
    spec: ModelSpec, sides: Sequence[Side], options: BuildOptions, batches: tuple[int, int]
) -> Path | None:
    """A folder of the store with engines of these towers that run here.

    They take every batch of `batches` (smallest, largest), come from the graphs that an export
    gives now, and did not fail the parity gate. Only flavour, precision and input of `options`
    count.
    Of several folders the one with the smallest range is taken.
    """
    weights_id = zoo.weights_id(spec)
    if weights_id is None:
        return None
    keys = [
        engine_graphs.graph_key(spec, weights_id, side, options.precision, options.pixel_dtype)
        for side in sides
    ]
    stored = store.find_artifacts()
    graphs = {
        tower.side: onnx_sha256(tower)
        for _, manifest in stored
        for tower in manifest.towers
        if tower.key in keys
    }
    present = flavours.gpu_kind()
    found = []
    for folder, manifest in stored:
        towers = [tower for side in sides if (tower := manifest.tower(side)) is not None]
        plans = [info for tower in towers if (info := _sound_plan(folder, tower, options))]
        if len(plans) == len(sides) and all(
            info.onnx_sha256 == graphs.get(info.side) and plan_file.obstacle(info, present) is None
            for info in plans
        ):
            smallest, largest = _batches(plans[0])
            if smallest <= batches[0] and batches[1] <= largest:
                found.append((largest - smallest, folder))
    return min(found)[1] if found else None


def _sound_plan(folder: Path, tower: Artifact, options: BuildOptions) -> PlanInfo | None:
    """The sidecar of an engine of this flavour and precision that did not fail the gate."""
    refused = tower.parity is not None and not tower.parity.passed
    if refused or (tower.runtime, tower.precision) != (options.flavour, options.precision):
        return None
    try:
        return plan_file.read(folder / tower.path)
    except ArtifactError:  # damaged, or of another version of clipperf
        return None


def complete(options: BuildOptions, spec: ModelSpec) -> BuildOptions:
    """The options with what they leave open, checked against the installed TensorRT.

    Raises:
        UsageError, MissingDependencyError: as `export_engine`.
    """
    choices = precisions(options.flavour)
    if options.precision not in choices:
        raise UsageError(
            f"no --precision {options.precision!r} for {flavours.TITLES[options.flavour]}; "
            f"choose from {', '.join(choices)}"
        )
    can = flavours.capabilities(flavours.load(options.flavour))
    present = flavours.gpu_kind()
    options = targeted(options, can, present)
    check_support(options, can)
    check_kinds(options, can, present)
    if options.timing_cache is None and can.timing_cache:
        name = files.safe_name(f"timing-{flavours.version(options.flavour)}-{_present_gpu()}")
        options = replace(options, timing_cache=str(store.cache_folder() / name))
    return replace(options, tokens=token_range(spec.context_tokens))


def engine_folder(
    spec: ModelSpec, weights_id: str, options: BuildOptions, normalized: bool
) -> Path:
    """Where the store keeps the engines of one model, precision and set of options."""
    low, usual, high = options.batch
    parts = [artifact_folder.variant(options.precision, normalized, options.pixel_dtype)]
    parts += [f"b{low}-{usual}-{high}", *(options.targets or ["here"])]
    variant = "-".join([*parts, files.digest_of(described(options))[:6]])
    return store.artifact_folder(spec, weights_id, options.flavour, variant)


def described(options: BuildOptions) -> dict[str, str]:
    """The options that users choose, as the manifest keeps them; ranges as MIN:OPT:MAX."""
    values = {
        "batch": ":".join(map(str, options.batch)),
        "tokens": ":".join(map(str, options.tokens)),
        "targets": ",".join(options.targets) or _present_gpu(),
        "hardware_compat": options.hardware_compat,
        "workspace_bytes": options.workspace_bytes,
        "opt_level": options.opt_level,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _present_gpu() -> str:
    found = gpu()
    return "the GPU present" if found is None else f"{found.name}, driver {found.driver}"


def cache_key(graph: Artifact, options: BuildOptions) -> str:
    """A digest of everything that changes a plan's bytes, the ONNX files' content first."""
    return files.digest_of(
        "engine", plan_file.SCHEMA_VERSION, graph.files, options.flavour,
        flavours.version(options.flavour), options.precision, described(options),
    )  # fmt: skip


def onnx_sha256(graph: Artifact) -> str:
    """The sha256 of an ONNX file; with external data that of its files' "sha256  name" lines."""
    if len(graph.files) == 1:
        return next(iter(graph.files.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(graph.files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _build(
    wanted: Wanted,
    options: BuildOptions,
    graph: Artifact,
    source: Path,
    staging: Path,
    keep_failed: bool,
    verbose: bool,
    on_stage: Callable[[str], None],
) -> Artifact:
    side = graph.side
    label = f"{wanted.spec.id} {side} {wanted.runtime} {wanted.precision}"
    plan = staging / side / "model.plan"
    plan.parent.mkdir(parents=True)
    job = {
        "op": "engine",
        "onnx": str(source / graph.path),
        "plan": str(plan),
        "options": to_json(options),
        "inputs": to_json(graph.inputs),
        "outputs": to_json(graph.outputs),
        "model_id": wanted.spec.id,
        "side": side,
        "onnx_sha256": onnx_sha256(graph),
        "verbose": verbose,
    }
    done = run_worker(job, label, lambda stage: on_stage(f"{side} engine: {stage}"))
    info = from_json(PlanInfo, done)
    built = artifact_folder.built_tower(
        wanted,
        staging,
        plan,
        side=side,
        inputs=info.inputs,
        outputs=info.outputs,
        tokens=graph.tokens,
        build_s=info.build_s,
        peak_rss_bytes=info.peak_rss_bytes,
        parity=None,
        notes=graph.notes,
    )
    if plan_file.obstacle(info, flavours.gpu_kind()) is not None:
        return built
    on_stage(f"{side} engine: checking parity")
    check = {
        "op": "check",
        "plan": str(plan),
        "folder": str(source),
        "cell": to_json(_cell(wanted, side)),
        "spec": to_json(wanted.spec),
    }
    found = from_json(Parity, run_worker(check, label))
    if not found.passed and not keep_failed:
        raise ParityError(
            f"{parity.explain(found, label)}. The engine was refused; --keep-failed keeps it"
        )
    return replace(built, parity=found)


def _cell(wanted: Wanted, side: Side) -> Cell:
    return Cell(
        wanted.spec.id, side, wanted.runtime, wanted.precision, "cuda", 1, available_cores()
    )


def check_engine(job: dict[str, Any]) -> dict[str, Any]:
    """Run a plan on this machine's GPU and compare it with PyTorch's stored embeddings.

    The child process's side of the parity gate; returns the `Parity` as JSON values.

    Raises:
        EngineError: the plan does not load or run.
    """
    cell = from_json(Cell, job["cell"])
    folder = Path(job["folder"])
    plan = Path(job["plan"])
    info = plan_file.read(plan)
    low, high = _batches(info)
    spec = from_json(ModelSpec, job["spec"])
    wanted = parity.batches_for(spec, cell.side)
    sizes = tuple(dict.fromkeys(min(max(size, low), high) for size in wanted))
    request = EngineRequest(cell, spec, str(plan))
    engine = contract.get(cell.runtime).open(request)
    try:
        found = parity.measure(
            engine,
            parity_inputs(folder, cell.side, info.inputs[0].dtype),
            np.load(folder / reference_name(cell.side)),
            cell.precision,
            f"; on {_present_gpu()}",
            sizes,
        )
    finally:
        engine.close()
    return dict(to_json(found))


def _batches(info: PlanInfo) -> tuple[int, int]:
    """The smallest and the largest batch that a plan takes."""
    profile = info.profile[0]
    return profile.min[0], profile.max[0]
