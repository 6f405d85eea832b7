"""Whether there is room for towers before they are made: in a folder, and on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from clipperf.errors import ArtifactError, StorageError, UsageError
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Precision, Side
from clipperf.system import store
from clipperf.system.foreign import is_empty
from clipperf.system.targets import kind_of


def check_target(folder: Path, spec: ModelSpec, runtime: str) -> None:
    """Refuse to replace a folder that is not an artifact of the same architecture and runtime.

    Raises:
        UsageError: the folder holds something else, or something that cannot be looked at.
    """
    kind = kind_of(folder)
    if kind == "nothing" or (kind == "folder" and is_empty(folder)):
        return
    try:
        manifest = store.read_manifest(folder)
    except ArtifactError as exc:
        why = f"is no clipperf artifact that can be read ({exc})"
        if kind_of(folder / store.MANIFEST_NAME) == "nothing":
            why = "is no clipperf artifact"
        raise UsageError(f"{folder} already exists and {why}; choose another --out") from exc
    if (manifest.spec.architecture, manifest.runtime) != (spec.architecture, runtime):
        raise UsageError(
            f"{folder} holds {manifest.spec.id} for {manifest.runtime}; choose another --out, or "
            f"remove it first"
        )


def weight_bytes(spec: ModelSpec, sides: Sequence[Side], precision: Precision) -> dict[Side, int]:
    """What the weights of each side take at a precision; 0 where their number is unknown."""
    return {side: spec.parameters(side) * precision.weights.bits // 8 for side in sides}


def check_space(folder: Path, spec: ModelSpec, needed: int) -> None:
    """Fail before the work, not after it, where the towers cannot fit on the disk.

    Raises:
        StorageError: less space is free than the weights take.
    """
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise StorageError(
            f"{spec.id} needs {needed / 2**20:.0f} MiB at {folder.parent}, only "
            f"{free / 2**20:.0f} MiB are free. Free some space, or choose another disk with "
            f"--out or CLIPPERF_HOME"
        )
