"""What users choose of a TensorRT build, checked before any work."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from clipperf.engines.contract import USUAL_BATCHES
from clipperf.engines.profiles import Range, profiles_of
from clipperf.engines.tensorrt import flavours
from clipperf.errors import UsageError
from clipperf.nouns.artifact import Artifact, ShapeRange, TensorSpec
from clipperf.nouns.variant import INT8, Precision, Variant

MAX_BATCH = 65536
"""As many as the ONNX graphs are exported for."""

TARGETS_WITHOUT_GPU = ("sm86", "sm89", "sm120")
"""The GeForce and RTX GPUs of the last three generations: what is built for where no GPU is."""

FIRST_WITH_FLOAT32 = 80
"""The first GPU that plans of fp32 products are built for ahead of time: there Turing has none."""

FIRST_WITH_INT8 = 86
"""The first kind for which NVIDIA lists int8 in TensorRT for RTX, and that of weights in matrix
products alone ("INT8 WoQ GEMM", support matrices of 1.0 to 1.5): for 7.5 it lists none. It builds
there all the same."""


@dataclass(frozen=True)
class EngineSettings:
    """What users choose of a build; all but the last two are part of the plan's cache key.

    `batch` and `tokens` are (smallest, a usual one, largest), and tuned for are these and some
    between (`engines.profiles`). `targets` are GPU kinds
    ("sm89"), empty for the GPU that is present. `hardware_compat` is a level such as
    "ampere-plus". `workspace_bytes` and `opt_level` (0 to 5) are TensorRT's own where None.
    `timing_cache` is a file to read and extend. `verbose` tells TensorRT's own messages too.

    Raises:
        UsageError: a value cannot be; the message names its option.
    """

    batch: Range = USUAL_BATCHES
    tokens: Range = (8, 77, 77)
    targets: tuple[str, ...] = ()
    hardware_compat: str | None = None
    workspace_bytes: int | None = None
    opt_level: int | None = None
    timing_cache: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        for option, (low, middle, high) in (("--batch", self.batch), ("tokens", self.tokens)):
            if not 1 <= low <= middle <= high:
                raise UsageError(
                    f"{option} {low}:{middle}:{high}: give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX"
                )
        if self.batch[2] > MAX_BATCH:
            raise UsageError(f"--batch takes up to {MAX_BATCH}, not {self.batch[2]}")
        for kind in self.targets:
            if not re.fullmatch(r"sm\d{2,3}", kind):
                raise UsageError(f"--target {kind}: give GPU kinds such as sm86,sm89,sm120")
        if len(set(self.targets)) < len(self.targets):
            raise UsageError(f"--target {','.join(self.targets)} names a kind twice")
        if self.workspace_bytes is not None and self.workspace_bytes < 2**20:
            raise UsageError("--workspace is below 1 MiB: give more, or leave it out")
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise UsageError(f"--opt-level {self.opt_level}: give 0 to 5")


def settings_of(variant: Variant) -> EngineSettings:
    """A variant's settings, the usual ones where it has none."""
    found = variant.settings
    return found if isinstance(found, EngineSettings) else EngineSettings()


def onnx_sha256(graph: Artifact) -> str:
    """The sha256 of an ONNX file; with external data that of its files' "sha256  name" lines."""
    if len(graph.files) == 1:
        return next(iter(graph.files.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(graph.files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_support(variant: Variant, can: flavours.Capabilities) -> None:
    """Refuse what this flavour cannot do.

    Raises:
        UsageError: the message names the option to change.
    """
    options, title = settings_of(variant), flavours.TITLES[variant.runtime]
    unknown = [kind for kind in options.targets if kind not in can.targets]
    if unknown and not can.targets:
        raise UsageError(
            f"{title} builds for the GPU that is present: leave out --target, or use "
            f"--runtime trt-rtx"
        )
    if unknown:
        raise UsageError(
            f"{title} does not build for {', '.join(unknown)}: choose --target from "
            f"{', '.join(can.targets)}"
        )
    if options.hardware_compat is not None and not can.hardware_compat:
        raise UsageError(f"{title} has no --hardware-compat: name the GPUs with --target instead")
    if options.hardware_compat not in (None, *can.hardware_compat):
        raise UsageError(
            f"--hardware-compat {options.hardware_compat}: choose from "
            f"{', '.join(can.hardware_compat)}"
        )
    if options.timing_cache is not None and not can.timing_cache:
        raise UsageError(f"{title} times nothing while it builds: leave out --timing-cache")


def suits(kind: str, precision: Precision, can: flavours.Capabilities) -> bool:
    """Whether engines of a precision are for a GPU kind such as "sm89"."""
    first, numbers = precision.first_gpu, precision.on_gpu
    if can.targets and numbers.floats.bits == 32:
        first = max(first, FIRST_WITH_FLOAT32)
    if can.targets and numbers.weights == INT8:
        first = max(first, FIRST_WITH_INT8)
    return int(kind[2:]) >= first


def targeted(variant: Variant, can: flavours.Capabilities, present: str | None) -> Variant:
    """The variant with the GPU kinds to build for, where the flavour knows kinds.

    Without targets, plans are for the GPU that is `present`; without a GPU, for those of
    `TARGETS_WITHOUT_GPU` that have the precision.

    Raises:
        UsageError: none are given, and the GPU here is none that the flavour runs on.
    """
    options = settings_of(variant)
    if options.targets or not can.targets:
        return variant
    if present is not None and (refused := flavours.unsupported(variant.runtime, present)):
        raise UsageError(
            f"{refused}, which is the GPU here: take --runtime trt, or name GPUs elsewhere with "
            f"--target {','.join(TARGETS_WITHOUT_GPU)}"
        )
    targets: tuple[str, ...] = (present,) if present in can.targets else ()
    if present is None:
        usual = TARGETS_WITHOUT_GPU
        targets = tuple(kind for kind in usual if suits(kind, variant.row, can))
    return replace(variant, settings=replace(options, targets=targets))


def check_kinds(variant: Variant, can: flavours.Capabilities, present: str | None) -> None:
    """Refuse a precision that a GPU kind to build for does not have; `present` is this machine's.

    Raises:
        UsageError: the message names the kinds that have it.
    """
    row = variant.row
    kinds = settings_of(variant).targets or ((present,) if present else ())
    lacking = [kind for kind in kinds if not suits(kind, row, can)]
    if lacking:
        known = [kind for kind in can.targets if suits(kind, row, can)]
        choice = f": choose --target from {', '.join(known)}" if known else ""
        raise UsageError(
            f"{flavours.TITLES[variant.runtime]} has no {row.name} engine for "
            f"{', '.join(lacking)}{choice}, or --precision fp16"
        )


def profiles_for(given: TensorSpec, options: EngineSettings) -> tuple[ShapeRange, ...]:
    """The profiles of an engine with this input, see `engines.profiles`.

    Raises:
        ExportError: the input has a dynamic axis that is neither "batch" nor "tokens".
    """
    return profiles_of(given, options.batch, options.tokens)
