"""What `clipperf tune` found, as `clipperf.load` opens it."""

from __future__ import annotations

import warnings
from pathlib import Path

from clipperf.errors import ArtifactError, TuningWarning
from clipperf.nouns.result import Environment
from clipperf.nouns.tuning import TunedTower, Tuning
from clipperf.serve.towers import Choice
from clipperf.system.env import available_cores, cpu_name
from clipperf.system.store import read_versioned, record_of
from clipperf.system.targets import kind_of

KIND = "tuning"
FILE = "tuning.json"
"""The tuning file in a folder that holds its artifacts, too."""

_AGAIN = "run clipperf tune again"


def read(path: Path) -> list[Choice]:
    """The towers of a tuning file, each with its own artifact, runtime and settings.

    Warns with `TuningWarning` where the machine is another one than it was tuned on.

    Raises:
        ArtifactError: not a tuning file, or of another version of clipperf.
        UsageError: it names a folder of which nothing can be told.
    """
    data = read_versioned(path, f"give the folder that clipperf export wrote, or {_AGAIN}")
    if data.get("kind") != KIND:
        raise ArtifactError(f"{path} is no tuning file: make one with clipperf tune MODEL")
    tuning = record_of(Tuning, data, path, _AGAIN)
    if not tuning.towers:
        raise ArtifactError(f"{path} is damaged, it names no towers: {_AGAIN}")
    choices = [_choice(path, tower) for tower in tuning.towers]
    _compare_machines(tuning.environment)
    for choice in choices:
        if kind_of(choice.folder) != "folder":
            raise ArtifactError(
                f"{path} names {choice.folder}, which is not there: move the file together with "
                f"its artifacts (clipperf tune --bundle DIR), or {_AGAIN}"
            )
    return choices


def _choice(path: Path, tower: TunedTower) -> Choice:
    cell = tower.cell
    if not (1 <= cell.streams <= cell.threads and cell.batch >= 1):
        raise ArtifactError(
            f"{path} is damaged, it says {cell.threads} threads, {cell.streams} streams, batch "
            f"{cell.batch}: {_AGAIN}"
        )
    return Choice(
        folder=path.parent / tower.artifact,
        side=cell.side,
        runtime=cell.runtime,
        device=cell.device,
        threads=cell.threads,
        streams=cell.streams,
        batch=cell.batch,
        key=tower.key,
    )


def _compare_machines(tuned_on: Environment) -> None:
    here, there = (cpu_name(), available_cores()), (tuned_on.cpu, tuned_on.cores)
    if here != there:
        warnings.warn(
            f"tuned on {there[1]} cores of {there[0]}, this machine has {here[1]} of {here[0]}: "
            f"run clipperf tune here for its best settings",
            TuningWarning,
            stacklevel=4,
        )
