"""What towers take on the disk, before they are made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from clipperf.errors import StorageError
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Precision, Side


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
