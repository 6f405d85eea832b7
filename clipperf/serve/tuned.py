"""What `clipperf tune` found, as `clipperf.load` opens it."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

from clipperf.errors import ArtifactError, EngineError, TuningWarning
from clipperf.nouns.result import Environment
from clipperf.nouns.tuning import TunedTower, Tuning
from clipperf.serve.towers import Choice
from clipperf.system.env import available_cores, cpu_name, gpu_state
from clipperf.system.gpus import CUDA
from clipperf.system.store import read_versioned, record_of
from clipperf.system.targets import kind_of
from clipperf.units import GIB

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
    _compare_machines(tuning.environment, any(each.device == CUDA for each in choices))
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


def _compare_machines(tuned_on: Environment, on_a_gpu: bool) -> None:
    """The processor and its cores; of what runs on a GPU that one, too.

    A GPU is its name and memory: later drivers load what was tuned, and slices of one differ.
    Where NVML told none, there or here, nothing is known of it: CUDA may well have one.
    """
    told = [(_cores(tuned_on.cpu, tuned_on.cores), _cores(cpu_name(), available_cores()))]
    if on_a_gpu:
        name, memory_bytes = None, None
        with contextlib.suppress(ImportError, EngineError):
            name, memory_bytes, _ = gpu_state()
        if name is not None and tuned_on.gpu is not None:
            told.append((_gpu(tuned_on.gpu, tuned_on.vram_bytes), _gpu(name, memory_bytes)))
    others = [(there, here) for there, here in told if there != here]
    if others:
        warnings.warn(
            f"tuned on {' and '.join(there for there, _ in others)}, this machine has "
            f"{' and '.join(here for _, here in others)}: run clipperf tune here for its best "
            f"settings",
            TuningWarning,
            stacklevel=4,
        )


def _cores(name: str, count: int) -> str:
    return f"{count} cores of {name}"


def _gpu(name: str, memory_bytes: int | None) -> str:
    """A GPU in words, its memory in whole GiB: drivers keep more or less of it to themselves."""
    return name if memory_bytes is None else f"{name} with {round(memory_bytes / GIB)} GiB"
