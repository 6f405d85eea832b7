"""What `clipperf tune` found, as `clipperf.load` reads it: plain values, no pydantic."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, TuningWarning
from clipperf.serve.opening import Opening

KIND = "tuning"
FILE = "tuning.json"
"""The tuning file in a folder that holds its artifacts, too."""


def read(path: Path) -> list[Opening]:
    """The towers of a tuning file, each with its own artifact, runtime and settings.

    Warns with `TuningWarning` where the machine is another one than it was tuned on.

    Raises:
        ArtifactError: not a tuning file, or of another version of clipperf.
    """
    from clipperf.system.store import SCHEMA_VERSION

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("kind") != KIND:
            raise ArtifactError(f"{path} is no tuning file: make one with clipperf tune MODEL")
        if data["schema_version"] != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} has schema version {data['schema_version']}, this clipperf reads "
                f"{SCHEMA_VERSION}: run clipperf tune again"
            )
        openings = [_opening(path, tower) for tower in data["towers"]]
        if not openings:
            raise ValueError("no towers")
        _compare_machines(data["environment"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ArtifactError(f"{path} is damaged: run clipperf tune again") from exc
    for opening in openings:
        if not opening.folder.is_dir():
            raise ArtifactError(
                f"{path} names {opening.folder}, which is not there: move the file together with "
                f"its artifacts (clipperf tune --bundle DIR), or run clipperf tune again"
            )
    return openings


def _opening(path: Path, tower: dict[str, Any]) -> Opening:
    cell = tower["cell"]
    threads, streams, batch = (int(cell[name]) for name in ("threads", "streams", "batch"))
    if not (1 <= streams <= threads and batch >= 1):
        raise ValueError(f"{threads} threads, {streams} streams, batch {batch}")
    return Opening(
        folder=path.parent / tower["artifact"],
        side=cell["side"],
        runtime=cell["runtime"],
        device=cell["device"],
        threads=threads,
        streams=streams,
        batch=batch,
        key=tower["key"],
    )


def _compare_machines(tuned_on: dict[str, Any]) -> None:
    from clipperf.system.env import available_cores, cpu_name

    here, there = (cpu_name(), available_cores()), (tuned_on["cpu"], tuned_on["cores"])
    if here != there:
        warnings.warn(
            f"tuned on {there[1]} cores of {there[0]}, this machine has {here[1]} of {here[0]}: "
            f"run clipperf tune here for its best settings",
            TuningWarning,
            stacklevel=4,
        )
