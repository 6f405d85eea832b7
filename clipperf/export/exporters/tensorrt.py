"""TensorRT engines, of both flavours, built from the ONNX towers.

On a machine whose GPU they run on, they pass the parity gate; elsewhere they are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from clipperf.engines.profiles import (
    Range,
    batch_steps,
    chosen,
    first_batch,
    reach,
    token_range,
    token_steps,
    whole,
)
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.errors import ArtifactError, UsageError
from clipperf.export import gate
from clipperf.export.exporter import Below, Choices, Exporter, Need, key_of
from clipperf.export.job import Built, Job, Tell
from clipperf.export.judge import parity
from clipperf.export.plan_options import (
    MAX_BATCH,
    EngineSettings,
    check_kinds,
    check_support,
    onnx_sha256,
    profiles_for,
    settings_of,
    targeted,
)
from clipperf.models import zoo
from clipperf.nouns.artifact import Artifact, Parity, PlanInfo
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side, Variant
from clipperf.system import files, store
from clipperf.system.env import gpu

OPTIONS = {
    "--batch": "batch",
    "--target": "targets",
    "--hardware-compat": "hardware_compat",
    "--workspace": "workspace_bytes",
    "--opt-level": "opt_level",
    "--timing-cache": "timing_cache",
    "--verbose": "verbose",
}


def complete(spec: ModelSpec, variant: Variant) -> Variant:
    """See `Exporter`: checked against the installed TensorRT.

    Raises:
        UsageError: the settings do not fit this flavour of TensorRT.
        MissingDependencyError: it is not installed.
    """
    can = flavours.capabilities(flavours.load(variant.runtime))
    present = flavours.gpu_kind()
    variant = targeted(variant, can, present)
    check_support(variant, can)
    check_kinds(variant, can, present)
    settings = settings_of(variant)
    caches = store.cache_folder()
    if settings.timing_cache is None and can.timing_cache and caches is not None:
        name = files.safe_name(f"timing-{flavours.version(variant.runtime)}-{_present_gpu()}")
        settings = replace(settings, timing_cache=str(caches / name))
    settings = replace(settings, tokens=token_range(spec.context_tokens))
    return replace(variant, settings=settings)


def needs(spec: ModelSpec, sides: Sequence[Side], variant: Variant) -> list[Need]:
    """See `Exporter`: the graph that GPUs run."""
    precision = variant.row.on_gpu.name
    return [(replace(variant, runtime="onnx", precision=precision, settings=None), sides)]


def key(spec: ModelSpec, side: Side, variant: Variant, below: Below) -> str:
    """See `Exporter`; the ONNX files' content first."""
    return files.digest_of(
        "engine", plan_file.SCHEMA_VERSION, below.files, variant.runtime,
        flavours.version(variant.runtime), variant.precision, described(variant),
    )  # fmt: skip


def described(variant: Variant) -> dict[str, str]:
    """See `Choices`; ranges as MIN:OPT:MAX, and what images and texts are tuned for."""
    settings = settings_of(variant)
    values = {
        "batch": ":".join(map(str, settings.batch)),
        "tokens": ":".join(map(str, settings.tokens)),
        "image_batches": ",".join(map(str, batch_steps(settings.batch))),
        "text_tokens": ",".join(map(str, token_steps(settings.tokens))),
        "targets": ",".join(settings.targets) or _present_gpu(),
        "hardware_compat": settings.hardware_compat,
        "workspace_bytes": settings.workspace_bytes,
        "opt_level": settings.opt_level,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def suffix(variant: Variant) -> str:
    """See `Choices`."""
    settings = settings_of(variant)
    low, usual, high = settings.batch
    parts = [f"b{low}-{usual}-{high}", *(settings.targets or ["here"])]
    return "-".join([*parts, files.digest_of(described(variant))[:6]])


def _present_gpu() -> str:
    found = gpu()
    return "the GPU present" if found is None else f"{found.name}, driver {found.driver}"


def make(job: Job, tell: Tell) -> Built:
    """See `Exporter`."""
    from clipperf.export.jobs.plan import engine_of_tower

    return engine_of_tower(job, tell)


def runs_here(job: Job) -> bool:
    """Whether this machine's GPU runs the engine of a job."""
    return plan_file.obstacle(plan_file.read(job.target), flavours.gpu_kind()) is None


def checked(job: Job, built: Built) -> Parity:
    """Compare an engine with PyTorch fp32, in batches that it takes and in each of its profiles.

    Raises:
        EngineError: the plan does not load or run.
    """
    info = plan_file.read(job.target)
    low, high = _batches(info)
    sizes = parity.batches_within(parity.batches_for(job.spec, job.side), low, high)
    rest, lengths = info.profile[0].opt[1:], dict.fromkeys(p.opt[1] for p in info.profile)
    if len(lengths) == 1:
        ran = {chosen(info.profile, (size, *rest)) for size in sizes}
        others = (place for place in range(len(info.profile)) if place not in ran)
        sizes += tuple(first_batch(info.profile, place) for place in others)
    note = f"; on {_present_gpu()}"
    with closing(gate.opened(job, job.target)) as engine:
        found = gate.compared(engine, job, built, note, sizes)
        for tokens in lengths if len(lengths) > 1 else ():
            other = gate.compared_at(engine, job, built, tokens, note, (low, high))
            if other is not None and _rank(other) < _rank(found):
                found = replace(other, n=found.n, batches=found.batches)
    return found


def _rank(found: Parity) -> tuple[bool, bool, float]:
    """The lower, the worse."""
    return found.passed, found.finite, found.min_cosine


def serving(
    spec: ModelSpec, sides: Sequence[Side], variant: Variant, batches: tuple[int, int]
) -> Variant | Path:
    """See `Exporter`: users may have built engines with ranges of their own."""
    found = find_engines(spec, sides, variant, batches)
    if found is not None:
        return found
    settings = settings_of(variant)
    low, tuned, high = settings.batch
    largest = high if batches[1] <= high else min(reach(batches[1]), MAX_BATCH)
    return replace(variant, settings=replace(settings, batch=(low, tuned, largest)))


def find_engines(
    spec: ModelSpec, sides: Sequence[Side], variant: Variant, batches: tuple[int, int]
) -> Path | None:
    """A folder of the store with engines of these towers that run here.

    They take every batch of `batches` (smallest, largest), come from the graphs that an export
    gives now, have the profiles that it would give them, and did not fail the parity gate. The
    variant's settings do not count. Of several folders the one with the smallest range is taken.
    """
    weights_id = zoo.weights_id(spec)
    if weights_id is None:
        return None
    ((source, _),) = needs(spec, sides, replace(variant, normalized=False))
    keys = [key_of(spec, weights_id, side, source) for side in sides]
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
        plans = [info for tower in towers if (info := _sound_plan(folder, tower, variant))]
        if len(plans) == len(sides) and all(
            info.onnx_sha256 == graphs.get(info.side) and plan_file.obstacle(info, present) is None
            for info in plans
        ):
            smallest, largest = _batches(plans[0])
            if smallest <= batches[0] and batches[1] <= largest:
                found.append((largest - smallest, folder))
    return min(found)[1] if found else None


def _sound_plan(folder: Path, tower: Artifact, variant: Variant) -> PlanInfo | None:
    """The sidecar of an engine of this flavour and precision that did not fail the gate."""
    refused = tower.parity is not None and not tower.parity.passed
    if refused or (tower.runtime, tower.precision) != (variant.runtime, variant.precision):
        return None
    try:
        info = plan_file.read(folder / tower.path)
        batch, tokens = (_range(tower.options[name]) for name in ("batch", "tokens"))
        made = profiles_for(info.inputs[0], EngineSettings(batch, tokens))
    except (ArtifactError, UsageError, KeyError, ValueError):
        return None  # damaged, or of another version of clipperf
    return info if info.profile == made else None


def _range(said: str) -> Range:
    """MIN:OPT:MAX of an artifact's options; raises ValueError."""
    low, usual, high = map(int, said.split(":"))
    return low, usual, high


def _batches(info: PlanInfo) -> tuple[int, int]:
    """The smallest and the largest batch that a plan takes."""
    taken = whole(info.profile)
    return taken.min[0], taken.max[0]


EXPORTER = Exporter(
    name="tensorrt",
    makes=dict.fromkeys(flavours.FLAVOURS, flavours.PRECISIONS),
    file="model.plan",
    tower="engine",
    key=key,
    job=make,
    complete=complete,
    needs=needs,
    gate=checked,
    gate_in_child=True,
    checkable=runs_here,
    refusal=partial(gate.refusal, what="engine"),
    choices=Choices(
        settings=EngineSettings,
        described=described,
        suffix=suffix,
        options=lambda variant: OPTIONS,
        options_for="is for TensorRT engines: add --runtime trt or trt-rtx",
    ),
    serving=serving,
)
