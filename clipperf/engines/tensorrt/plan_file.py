"""TensorRT plans as files: the sidecar beside each, and what the header says without a GPU.

The inputs and outputs of a plan cannot be read back without a GPU that runs it, so the build
writes a `PlanInfo` beside it, as ``<plan>.json``.

A plan of TensorRT for RTX starts with 64 bytes (`Runtime.engine_header_size`); integers are
little endian. Found by building plans for every target alone and together with 1.7.1:

======  ======================================================================
bytes   content
======  ======================================================================
0-3     "vtrt"
16-23   bytes of the whole file
24-27   version, a byte each: 1, 7, 1, 116
32-39   targets, a bit each: 1 sm75, 2 sm80, 4 sm86, 8 sm89, 16 sm120, 32 sm121
======  ======================================================================

The header of full TensorRT is not documented; its plans are known by their sidecar alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipperf.engines.tensorrt import flavours
from clipperf.errors import ArtifactError
from clipperf.nouns.artifact import PlanInfo
from clipperf.system.files import sha256_file, write_json
from clipperf.system.store import is_missing, read_versioned, record_of

SCHEMA_VERSION = 1
MAGIC = b"vtrt"
HEADER_BYTES = 64
TARGET_BITS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")

AGAIN = "export the model again"


@dataclass(frozen=True)
class Header:
    """What the first bytes of a plan of TensorRT for RTX say."""

    plan_bytes: int
    version: str
    targets: tuple[str, ...]


def sidecar_path(plan: Path) -> Path:
    """Where the sidecar of a plan lies."""
    return plan.with_name(f"{plan.name}.json")


def write(plan: Path, info: PlanInfo) -> None:
    """Write a plan's sidecar."""
    write_json(sidecar_path(plan), info)


def read(plan: Path) -> PlanInfo:
    """Read a plan's sidecar, every field checked.

    Raises:
        ArtifactError: it is missing, damaged, or of another version of clipperf.
    """
    path = sidecar_path(plan)
    try:
        values = read_versioned(path, AGAIN, SCHEMA_VERSION)
    except ArtifactError as exc:
        if not is_missing(exc):
            raise
        said = f"{path} is missing, and a plan cannot be used without it: {AGAIN}"
        raise ArtifactError(said) from exc
    info = record_of(PlanInfo, values, path, AGAIN)
    if info.flavour not in flavours.FLAVOURS or not _one_input_profiled(info):
        raise ArtifactError(f"{path} is damaged: {AGAIN}")
    return info


def _one_input_profiled(info: PlanInfo) -> bool:
    """Whether a sidecar is of one input and one output, and each of its profiles of that input."""
    if (len(info.inputs), len(info.outputs)) != (1, 1) or not info.profile:
        return False
    given = info.inputs[0]
    return all(
        profile.name == given.name
        and {len(profile.min), len(profile.opt), len(profile.max)} == {len(given.shape)}
        and all(
            low <= usual <= high
            for low, usual, high in zip(profile.min, profile.opt, profile.max, strict=True)
        )
        for profile in info.profile
    )


def read_header(plan: Path) -> Header | None:
    """The header of a plan of TensorRT for RTX; None where the file is something else.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        with open(plan, "rb") as f:
            data = f.read(HEADER_BYTES)
    except OSError as exc:
        raise ArtifactError(f"{plan} cannot be read: {exc.strerror}") from exc
    if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
        return None
    return Header(
        plan_bytes=int.from_bytes(data[16:24], "little"),
        version=".".join(str(number) for number in data[24:28]),
        targets=targets_of(int.from_bytes(data[32:40], "little")),
    )


def targets_of(mask: int) -> tuple[str, ...]:
    """GPU kinds by the header's mask; a bit that no named kind sets is left out."""
    return tuple(kind for bit, kind in enumerate(TARGET_BITS) if mask >> bit & 1)


def damage(plan: Path, content: bool = True) -> list[str]:
    """What is wrong with the file itself: not a plan, cut off, altered, or without its sidecar.

    `content` compares the sha256 too, which reads the whole file.
    """
    try:
        found = plan.stat().st_size
        header = read_header(plan)
    except (OSError, ArtifactError):
        return [f"{plan} is missing or cannot be read: {AGAIN}"]
    try:
        info = read(plan)
    except ArtifactError as exc:
        return [*_header_damage(plan, header, found), str(exc)]
    problems = [] if info.flavour != "trt-rtx" else _header_damage(plan, header, found)
    if not problems and found != info.plan_bytes:
        problems.append(f"{plan} has {found} bytes, its sidecar says {info.plan_bytes}: {AGAIN}")
    if header is not None and (info.flavour, info.version) != ("trt-rtx", header.version):
        problems.append(
            f"{sidecar_path(plan)} belongs to another plan: it says {info.flavour} "
            f"{info.version}, the plan is of trt-rtx {header.version}: {AGAIN}"
        )
    if header is not None and header.targets and set(header.targets) != set(info.targets):
        problems.append(
            f"{sidecar_path(plan)} belongs to another plan: it says {', '.join(info.targets)}, the "
            f"plan is for {', '.join(header.targets)}: {AGAIN}"
        )
    if not problems and content and sha256_file(plan) != info.plan_sha256:
        problems.append(f"{plan} was altered: its sha256 is not the sidecar's: {AGAIN}")
    return problems


def _header_damage(plan: Path, header: Header | None, found: int) -> list[str]:
    if header is None:
        return [f"{plan} is no plan of TensorRT for RTX, or its start is damaged: {AGAIN}"]
    if header.plan_bytes > found:
        return [f"{plan} is cut off: {found} of {header.plan_bytes} bytes: {AGAIN}"]
    if header.plan_bytes < found:
        return [f"{plan} has {found - header.plan_bytes} bytes too many: {AGAIN}"]
    return []


def mismatch(info: PlanInfo) -> str | None:
    """Why the TensorRT installed here does not take a plan, or None where it does."""
    title = flavours.TITLES[info.flavour]
    if not flavours.installed(info.flavour):
        return f"{title} is not installed: {flavours.INSTALL[info.flavour]}"
    there = flavours.version(info.flavour)
    if there is not None and there != info.version:
        return f"built with {title} {info.version}, {there} is installed: {AGAIN}"
    return None


def obstacle(info: PlanInfo, gpu: str | None) -> str | None:
    """Why an intact plan cannot run on a kind of GPU ("sm89"), or None where it can.

    `gpu` is None where there is no GPU.
    """
    reason = mismatch(info)
    if reason is not None:
        return reason
    if gpu is None:
        return "no NVIDIA GPU was found"
    refused = flavours.unsupported(info.flavour, gpu)
    if refused is not None:
        return f"{refused}: export the model for --runtime trt on this machine"
    later = info.options.get("hardware_compat") == "ampere-plus" and int(gpu[2:]) >= 80
    if gpu in info.targets or later:
        return None
    return (
        f"built for {', '.join(info.targets)}, the GPU here is {gpu}: export the model for this "
        f"one, on this machine or with --target {gpu}"
    )


def check(plan: Path, content: bool = True) -> list[str]:
    """Everything that keeps a plan from being used, as far as it shows without a GPU."""
    problems = damage(plan, content)
    if problems:
        return problems
    reason = mismatch(read(plan))
    return [f"{plan}: {reason}"] if reason else []
