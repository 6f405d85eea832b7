"""ONNX to TensorRT plans, in both flavours. Runs in the child process of an export, without torch.

Networks are strongly typed: the precision is that of the ONNX graph. The plan goes to its file
piece by piece as TensorRT serialises it, which saves holding the whole of it (a quarter of the
peak RSS for ViT-H-14), and its sha256 is taken on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.errors import ExportError, StorageError
from clipperf.export.job import Built, Job, Tell, like
from clipperf.export.plan_options import check_support, onnx_sha256, profiles_for, settings_of
from clipperf.nouns.artifact import PlanInfo, TensorSpec
from clipperf.nouns.variant import Side, Variant
from clipperf.serialize import to_json
from clipperf.system.env import gpu
from clipperf.system.files import replacing, utc_now
from clipperf.system.processes import status_bytes

if TYPE_CHECKING:
    import tensorrt


@dataclass(frozen=True)
class BuiltPlan:
    """What a build learns of its plan: TensorRT's version, the GPU kinds, the file's sha256."""

    version: str
    targets: tuple[str, ...]
    sha256: str


def engine_of_tower(job: Job, tell: Tell) -> Built:
    """Build the plan of a job and its sidecar from the ONNX tower.

    Raises:
        UsageError, MissingDependencyError, ExportError, StorageError: see `build_plan`.
    """
    onnx, graph = job.source()
    info = build_engine(
        onnx, job.target, job.variant,
        model_id=job.spec.id, side=job.side, inputs=graph.inputs, outputs=graph.outputs,
        digest=onnx_sha256(graph), weight_bits=graph.weight_bits, tell=tell,
    )  # fmt: skip
    return replace(like(graph), build_s=info.build_s, peak_rss_bytes=info.peak_rss_bytes)


def build_engine(
    onnx: Path,
    plan: Path,
    variant: Variant,
    *,
    model_id: str,
    side: Side,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    digest: str,
    weight_bits: int | None = None,
    tell: Tell = lambda stage: None,
) -> PlanInfo:
    """Build one plan and its sidecar from an ONNX file, whose sha256 is `digest`.

    Raises:
        UsageError, MissingDependencyError, ExportError, StorageError: see `build_plan`.
    """
    start = time.perf_counter()
    options = settings_of(variant)
    built = build_plan(onnx, plan, variant, inputs, label=f"{model_id} {side}", tell=tell)
    present = None if options.targets else gpu()
    chosen = to_json(options)
    info = PlanInfo(
        schema_version=plan_file.SCHEMA_VERSION,
        flavour=variant.runtime,
        version=built.version,
        model_id=model_id,
        side=side,
        precision=variant.precision,
        inputs=inputs,
        outputs=outputs,
        profile=profiles_for(inputs[0], options),
        targets=built.targets,
        gpu=None if present is None else present.name,
        options={name: str(chosen[name]) for name in SETTINGS if chosen[name] is not None},
        onnx_sha256=digest,
        plan_sha256=built.sha256,
        plan_bytes=plan.stat().st_size,
        build_s=time.perf_counter() - start,
        peak_rss_bytes=status_bytes("VmHWM"),
        created_utc=utc_now(),
        weight_bits=weight_bits,
    )
    plan_file.write(plan, info)
    return info


SETTINGS = ("hardware_compat", "workspace_bytes", "opt_level")
"""Options that a sidecar keeps beside what has a field of its own."""


def build_plan(
    onnx: Path,
    plan: Path,
    variant: Variant,
    inputs: tuple[TensorSpec, ...],
    *,
    label: str = "",
    tell: Tell = lambda stage: None,
) -> BuiltPlan:
    """Build a plan file from an ONNX file, its external data included.

    Raises:
        UsageError: this flavour cannot do what the options ask.
        MissingDependencyError: it is not installed.
        ExportError: TensorRT cannot read the graph or build it; the message holds its reason.
        StorageError: the plan cannot be written.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = flavours.load(variant.runtime)
    can = flavours.capabilities(trt)
    check_support(variant, can)
    options = settings_of(variant)
    said = (lambda message: tell(f"tensorrt: {message}")) if options.verbose else None
    log = flavours.Log(said)
    logger = flavours.logger(variant.runtime, log)
    title, label = flavours.TITLES[variant.runtime], label or onnx.name
    failed = f"{title} cannot build {label}"
    try:
        builder = trt.Builder(logger)
    except TypeError as exc:  # what pybind11 raises where the library gives no object
        raise ExportError(f"{failed}: {_explain(log, variant)}") from exc
    tell("reading the graph")
    network = builder.create_network(can.network_flags)
    parser = trt.OnnxParser(network, logger)
    # Garbage is "parsed" to an empty network without an error.
    if not parser.parse_from_file(str(onnx)) or network.num_outputs == 0:
        raise ExportError(f"{title} cannot read {label} ({onnx}): {_parse_reason(parser, log)}")
    config = builder.create_builder_config()
    _configure(builder, network, config, variant, can, inputs)
    tell(f"building for {', '.join(options.targets) or 'the GPU of this machine'}")
    with replacing(plan) as temporary, open(temporary, "wb") as file:
        writer = _writer(variant.runtime, file)
        done = builder.build_serialized_network_to_stream(network, config, writer)
        if writer.failure is not None:
            raise writer.failure
        if not done:
            raise ExportError(f"{failed}: {_explain(log, variant)}")
    if options.timing_cache is not None:
        # The engine is there; without its timings the next one takes longer.
        with contextlib.suppress(StorageError), replacing(Path(options.timing_cache)) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())
    header = plan_file.read_header(plan)
    version = header.version if header else flavours.version(variant.runtime) or trt.__version__
    kinds = header.targets if header else ()
    if not kinds and (kind := flavours.gpu_kind()) is not None:
        kinds = (kind,)
    return BuiltPlan(version, kinds, writer.digest.hexdigest())


def _configure(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    variant: Variant,
    can: flavours.Capabilities,
    inputs: tuple[TensorSpec, ...],
) -> None:
    """Hand the settings to TensorRT."""
    options = settings_of(variant)
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = flavours.load(variant.runtime)
    found = {network.get_input(i).name for i in range(network.num_inputs)}
    if found != {given.name for given in inputs}:
        raise ExportError(
            f"the graph takes {', '.join(sorted(found))}, not "
            f"{', '.join(given.name for given in inputs)}: export the model again"
        )
    for shapes in profiles_for(inputs[0], options):
        profile = builder.create_optimization_profile()
        smallest, usual, largest = (trt.Dims([*s]) for s in (shapes.min, shapes.opt, shapes.max))
        profile.set_shape(shapes.name, smallest, usual, largest)
        if config.add_optimization_profile(profile) < 0:
            ranges = ":".join(str(list(shape)) for shape in (shapes.min, shapes.opt, shapes.max))
            title = flavours.TITLES[variant.runtime]
            raise ExportError(f"{title} refuses the profile {ranges} of {shapes.name}")
    if variant.row.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:  # on unless cleared
        config.clear_flag(trt.BuilderFlag.TF32)
    flags, features = trt.BuilderFlag.__members__, trt.PreviewFeature.__members__
    if "REQUIRE_USER_ALLOCATION" in flags:  # else a run may allocate, and cannot be captured
        config.set_flag(flags["REQUIRE_USER_ALLOCATION"])
    if "RUNTIME_ACTIVATION_RESIZE_10_10" in features:  # the workspace shrinks with the batch
        config.set_preview_feature(features["RUNTIME_ACTIVATION_RESIZE_10_10"], True)
    if can.targets:
        kinds = [kind.upper() for kind in options.targets] or ["CURRENT"]
        # Not in full TensorRT, so not in the stubs.
        rtx: Any = trt
        rtx_config: Any = config
        rtx_config.num_compute_capabilities = len(kinds)
        for i, kind in enumerate(kinds):
            rtx_config.set_compute_capability(rtx.ComputeCapability.__members__[kind], i)
    if options.hardware_compat is not None:
        level = options.hardware_compat.upper().replace("-", "_")
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.__members__[level]
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.timing_cache is not None:
        stored = b""
        with contextlib.suppress(OSError):
            stored = Path(options.timing_cache).read_bytes()
        cache = config.create_timing_cache(stored)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            # Damaged, or of another GPU or version: start a new one.
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _parse_reason(parser: tensorrt.OnnxParser, log: flavours.Log) -> str:
    """The parser's first error with its node, and what the log adds to it."""
    if parser.num_errors == 0:
        return "it is not an ONNX model with an output"
    error = parser.get_error(0)
    where = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_name() else ""
    # The log repeats the parser's error, but may also hold its cause, such as a short file.
    repeats = ("ModelImporter.cpp", "In node")
    causes = [e for e in log.errors if not e.startswith(repeats)]
    return where + "; ".join([" ".join(error.desc().split()), *causes])


def _explain(log: flavours.Log, variant: Variant) -> str:
    reason = log.reason()
    if "outofmemory" in reason.lower().replace(" ", ""):
        return f"{reason}. Give it a smaller --batch, or more --workspace"
    if settings_of(variant).targets or "cudaError" not in reason:
        return reason
    ahead = "" if variant.runtime in flavours.BUILDS_WITHOUT_GPU else " --runtime trt-rtx"
    return f"{reason}. This needs an NVIDIA GPU; without one, name its kind:{ahead} --target sm89"


def _writer(flavour: str, file: BinaryIO) -> Any:
    """A TensorRT stream writer into `file`, with the `digest` and the `failure` of the writing."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = flavours.load(flavour)

    class Writer(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.digest = hashlib.sha256()
            self.failure: OSError | None = None

        # The stubs give the signature of C++; Python gets the bytes alone.
        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.digest.update(data)
            try:
                return file.write(data)
            except OSError as exc:  # TensorRT would only print it
                self.failure = exc
                return 0

    return Writer()
