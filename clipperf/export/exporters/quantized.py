"""Towers made from the ONNX artifact: int8 and fp8 graphs, OpenVINO's; cached and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipperf.engines import contract
from clipperf.engines import onnxruntime as ort_engine
from clipperf.errors import MissingDependencyError, ParityError, UsageError
from clipperf.evals import datasets
from clipperf.export import folder as artifact_folder
from clipperf.export.exporters import onnx
from clipperf.export.folder import Exported, Wanted
from clipperf.export.judge import parity
from clipperf.export.judge.inputs import parity_inputs
from clipperf.export.process import run_worker
from clipperf.export.worker import reference_name
from clipperf.graph import quantize
from clipperf.nouns.artifact import Artifact, Parity
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PRECISIONS, SIDES, PixelDtype, Side
from clipperf.system import files, store
from clipperf.system.env import available_cores, version_of

SAMPLE = "sample"
MARGIN = 0.5

VERSION = 3
"""Raise it when the same settings come to write other bytes."""


@dataclass(frozen=True)
class Recipe:
    """How the towers of one runtime and precision are made.

    `name` is what the child process does, `file` the model's name; `packages` change the bytes.
    `judged` recipes quantise activations too: they search for layers to keep. `graph` is the
    precision of the ONNX graph that they start from, which the kept layers have.
    """

    name: str
    file: str
    packages: tuple[str, ...]
    judged: bool
    graph: str = onnx.BASELINE


RECIPES = {
    ("onnx", "int8"): Recipe("dynamic", "model.onnx", ("onnx", "onnxruntime-gpu"), True),
    ("onnx", "int8-static"): Recipe("static", "model.onnx", ("onnx", "onnxruntime-gpu"), True),
    ("onnx", "fp8"): Recipe("fp8", "model.onnx", ("onnx", "onnxruntime-gpu"), True, "fp16"),
    ("openvino", "fp32"): Recipe("convert", "model.xml", ("openvino",), False),
    ("openvino", "int8w"): Recipe("weights", "model.xml", ("openvino", "nncf"), False),
    ("openvino", "int8"): Recipe("nncf", "model.xml", ("openvino", "nncf"), True),
}


@dataclass(frozen=True)
class Settings:
    """What users choose of a derived artifact.

    `calibrate` is "sample" or a folder as `datasets.load_dataset` takes it. `margin` are the
    percentage points that recall@1 and top-1 on these samples may lose. `pixel_dtype` is what the
    ONNX artifact that they are made from takes.
    """

    runtime: str
    precision: str
    calibrate: str = SAMPLE
    margin: float = MARGIN
    pixel_dtype: PixelDtype = "float32"

    @property
    def recipe(self) -> Recipe:
        """How it is made; raises UsageError where nobody knows."""
        if (self.runtime, self.precision) not in RECIPES:
            known = [precision for runtime, precision in RECIPES if runtime == self.runtime]
            raise UsageError(
                f"no precision {self.precision!r} for {self.runtime}; "
                f"choose from {', '.join(known)}"
            )
        return RECIPES[self.runtime, self.precision]

    @property
    def described(self) -> dict[str, str]:
        """The choices as the manifest keeps them; none where they change nothing."""
        if not self.recipe.judged:
            return {}
        return {"calibrate": self.calibrate, "margin": f"{self.margin:g}"}


def settings_of(
    runtime: str,
    precision: str,
    calibrate: str | None = None,
    margin: float | None = None,
    pixel_dtype: PixelDtype = "float32",
) -> Settings | None:
    """What the options of a command mean; None for what is not derived from the ONNX artifact.

    Raises:
        UsageError: no such precision of OpenVINO, or samples for what does not use them.
    """
    if (runtime, precision) == ("onnx", "int8") and calibrate is not None:
        precision = "int8-static"
    if runtime == "openvino" or (runtime, precision) in RECIPES:
        settings = Settings(
            runtime,
            precision,
            SAMPLE if calibrate is None else calibrate,
            MARGIN if margin is None else margin,
            pixel_dtype,
        )
        if settings.recipe.judged:
            return settings
    else:
        settings = None
    if calibrate is not None or margin is not None:
        option = "--margin" if calibrate is None else "--calibrate"
        raise UsageError(f"{option} is for --precision int8 of onnx or openvino, fp8 of onnx")
    return settings


def export_derived(
    spec: ModelSpec,
    sides: Sequence[Side],
    settings: Settings,
    *,
    normalized: bool = False,
    out: Path | None = None,
    keep_failed: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Make sure that a folder holds these towers, building what is missing.

    The ONNX artifacts that they are made from and judged by are exported first where they do not
    exist. Quantised towers keep as many layers as they were as it takes to lose at most the margin
    on the calibration samples and to stay above the parity gate's cosine; with random weights only
    that counts. Which layers these are stands in each tower's `notes`.

    Raises:
        UsageError: unknown settings, samples that cannot be used, or `out` holds something else.
        MissingDependencyError: a package that does it is not installed.
        ExportError, ParityError, StorageError, WeightsError: see `clipperf.errors`; whatever
            stood in the folder before still stands.
    """
    recipe = settings.recipe
    if not settings.margin >= 0:
        raise UsageError(f"--margin {settings.margin}: give percentage points from 0 on")
    if settings.calibrate != SAMPLE:
        where = Path(settings.calibrate).expanduser().absolute()
        settings = replace(settings, calibrate=str(where))
    for package in ("openvino", "nncf"):
        if package in recipe.packages and version_of(package) is None:
            raise MissingDependencyError(
                f'{package} is not installed. To use it: pip install "clipperf[openvino]"'
            )
    if out is not None:
        artifact_folder.check_target(out.absolute(), spec, settings.runtime)
    judged = recipe.judged and not spec.random_weights
    needed = SIDES if judged else tuple(sides)

    def graph_of(sides: Sequence[Side], precision: str) -> Exported:
        return onnx.export_model(
            spec,
            sides,
            precision,
            normalized=normalized,
            pixel_dtype=settings.pixel_dtype,
            on_stage=on_stage,
        )

    baseline = graph_of(needed, onnx.BASELINE)
    source = baseline if recipe.graph == onnx.BASELINE else graph_of(sides, recipe.graph)
    graphs = {tower.side: tower for tower in source.manifest.towers if tower.side in sides}
    weights_id = graphs[sides[0]].weights_id
    keys = {side: cache_key(graphs[side].key, settings) for side in sides}
    folder = (out or derived_folder(spec, weights_id, settings, normalized)).absolute()
    wanted = Wanted(
        folder=folder,
        spec=spec,
        runtime=settings.runtime,
        precision=settings.precision,
        weights_id=weights_id,
        keys=keys,
        needed_bytes={side: graphs[side].disk_bytes for side in sides},
        normalized=normalized,
        options=settings.described,
    )

    def build_tower(side: Side, staging: Path) -> Artifact:
        return _build(
            wanted, settings, graphs[side], source.folder, baseline, staging, keep_failed, on_stage
        )

    return artifact_folder.ensure(
        wanted,
        lambda missing, staging: (build_tower(side, staging) for side in missing),
        shared_from=source.folder,
        keep_failed=keep_failed,
        on_stage=on_stage,
    )


def derived_folder(spec: ModelSpec, weights_id: str, settings: Settings, normalized: bool) -> Path:
    """Where the store keeps one model's derived towers."""
    parts = [artifact_folder.variant(settings.precision, normalized, settings.pixel_dtype)]
    usual = Settings(settings.runtime, settings.precision)
    if settings.described != usual.described:
        parts.append(files.digest_of(settings.described)[:6])
    return store.artifact_folder(spec, weights_id, settings.runtime, "-".join(parts))


def cache_key(source_key: str, settings: Settings) -> str:
    """A digest of everything that changes a derived tower's bytes, its source's key first."""
    recipe = settings.recipe
    versions: dict[str, object] = {name: version_of(name) for name in recipe.packages}
    if settings.runtime == onnx.RUNTIME:
        versions["weight_max"] = quantize.weight_max(recipe.name)
    samples = _samples_sha256(settings.calibrate) if recipe.judged else None
    return files.digest_of(
        "derived", VERSION, source_key, recipe.name, versions, settings.described, samples,
        PRECISIONS.get(settings.precision).min_cosine,
    )  # fmt: skip


def _samples_sha256(calibrate: str) -> str:
    if calibrate == SAMPLE:  # reading all of its images takes a second
        return store.cached_sha256(datasets.SAMPLE)
    return datasets.load_dataset(calibrate).sha256


def _build(
    wanted: Wanted,
    settings: Settings,
    graph: Artifact,
    source: Path,
    baseline: Exported,
    staging: Path,
    keep_failed: bool,
    on_stage: Callable[[str], None],
) -> Artifact:
    recipe, side = settings.recipe, graph.side
    judges = (side,) if wanted.spec.random_weights else SIDES
    label = f"{wanted.spec.id} {side} {wanted.runtime} {wanted.precision}"
    target = staging / side / recipe.file
    required = PRECISIONS.get(wanted.precision).min_cosine
    job = {
        "op": "derive",
        "recipe": recipe.name,
        "side": side,
        "source": str(source / graph.path),
        "target": str(target),
        "graph": recipe.graph,
        "folder": str(baseline.folder),
        "fp32": {t.side: t.path for t in baseline.manifest.towers if t.side in judges},
        "cut": graph.tokens is None,
        "calibrate": settings.calibrate,
        "margin": settings.margin,
        "input": settings.pixel_dtype,
        "min_cosine": required,
        "threads": available_cores(),
    }
    done = run_worker(job, label, lambda stage: on_stage(f"{side} tower: {stage}"))
    on_stage(f"{side} tower: checking parity")
    fed = parity_inputs(source, side, graph.inputs[0].dtype)
    found = _check_parity(wanted, side, target, fed, np.load(source / reference_name(side)))
    if not done["holds"]:
        found = replace(found, passed=False)
    if not found.passed and not keep_failed:
        raise ParityError(_refusal(label, found, done, settings))
    return artifact_folder.built_tower(
        wanted,
        staging,
        target,
        side=side,
        inputs=graph.inputs,
        outputs=graph.outputs,
        tokens=graph.tokens,
        build_s=done["build_s"],
        peak_rss_bytes=done["peak_rss_bytes"],
        parity=found,
        notes=graph.notes | done["notes"] | _weight_bits(wanted),
    )


def _weight_bits(wanted: Wanted) -> dict[str, str]:
    """The bits of a weight, sign included, where they depend on the machine that writes it."""
    if wanted.runtime != onnx.RUNTIME or not wanted.precision.startswith("int8"):
        return {}
    return {ort_engine.WEIGHT_BITS: str(quantize.safe_weight_max().bit_length() + 1)}


def _check_parity(
    wanted: Wanted, side: Side, path: Path, inputs: np.ndarray, reference: np.ndarray
) -> Parity:
    cell = Cell(wanted.spec.id, side, wanted.runtime, wanted.precision, "cpu", 1, available_cores())
    request = EngineRequest(cell, wanted.spec, str(path), wanted.normalized)
    with closing(contract.get(wanted.runtime).open(request)) as engine:
        sizes = parity.batches_for(wanted.spec, side)
        return parity.measure(engine, inputs, reference, wanted.precision, sizes=sizes)


def _refusal(label: str, found: Parity, done: dict, settings: Settings) -> str:
    if done["holds"]:
        said = parity.explain(found, label)
    else:
        notes = done["notes"]
        lost = f"{notes['points lost']} points and " if "points lost" in notes else ""
        said = (
            f"{label}: with half of its {notes['layers']} layers in {settings.recipe.graph} it "
            f"still loses {lost}has a minimum cosine of {notes['min cosine']} on "
            f"{notes['samples']} samples of {settings.calibrate} ({settings.margin:g} points and "
            f"{found.required_min_cosine} are asked for)"
        )
    return f"{said}. It was refused; a larger --margin or --keep-failed keeps it"
