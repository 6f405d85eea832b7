"""From an artifact folder to the engines of its towers; reads no more than it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from clipperf.engines import contract
from clipperf.errors import (
    ArtifactError,
    EngineError,
    MissingDependencyError,
    UnsupportedError,
    UsageError,
)
from clipperf.inputs.preprocess_spec import PREPROCESS_FILE, PreprocessSpec
from clipperf.nouns.artifact import Artifact, Manifest
from clipperf.nouns.cell import Cell, Engine, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PIXEL_DTYPES, PixelDtype, Side
from clipperf.serve.held import Held
from clipperf.system.env import available_cores
from clipperf.system.files import read_json, sha256_file
from clipperf.system.reading import regular_bytes
from clipperf.system.store import cache_folder
from clipperf.text import quoted

DEFAULT_BATCH = 32
"""How many inputs go into one batch where nobody says."""


@dataclass(frozen=True)
class Choice:
    """What to open of one artifact folder, and how; None where the artifact or machine decides.

    `side` None means every tower. `key` is that of the tower which was tuned, `batch` the largest
    that it is to be given; engines that are tuned for one batch are for this one, else the usual.
    """

    folder: Path
    side: Side | None = None
    runtime: str | None = None
    device: str | None = None
    threads: int | None = None
    streams: int = 1
    batch: int | None = None
    key: str | None = None
    precision: str | None = None


def requests(
    choice: Choice, manifest: Manifest, held: Held
) -> Iterator[tuple[EngineRequest, Artifact]]:
    """What opens each wanted tower of an artifact folder, beside its entry in the manifest.

    `held` is the folder under names that stay its own.
    """
    folder, spec = choice.folder, manifest.spec
    chosen = contract.get(choice.runtime or manifest.runtime)
    if chosen.artifact is None:
        raise UsageError(
            f"{chosen.name} runs weights, not what was exported, which {folder} holds: leave out "
            f"runtime"
        )
    if chosen.artifact != manifest.runtime:
        raise UsageError(
            f"{chosen.name} does not load {manifest.runtime} artifacts, which {folder} holds; "
            f"export the model for it: clipperf export {spec.id} --runtime {chosen.artifact}"
        )
    if choice.precision not in (None, manifest.precision):
        raise UsageError(
            f"{folder} holds towers in {manifest.precision}, not {quoted(choice.precision)}; "
            f"export the model in it: clipperf export {spec.id} --precision {choice.precision}"
        )
    device = choice.device or chosen.devices[0]
    if device not in chosen.devices:
        raise UsageError(f"{chosen.name} runs on {', '.join(chosen.devices)}, not on {device!r}")
    threads = choice.threads or available_cores()
    if choice.streams > 1 and not chosen.streams:
        raise UsageError(f"{chosen.name} runs one batch at a time; leave streams out")
    if choice.streams > threads:
        raise UsageError(
            f"streams is {choice.streams}, but each needs a thread of its own, and threads is "
            f"{threads}"
        )
    for tower in manifest.towers:
        if choice.side not in (None, tower.side):
            continue
        if choice.key not in (None, tower.key):
            raise ArtifactError(
                f"{folder} was exported anew since the tuning: run clipperf tune {spec.id} again"
            )
        check_sizes(held, tower)
        # What lies in several files finds the others by their names.
        file = held.path(tower.path) if len(tower.files) == 1 else held.folder / tower.path
        cell = Cell(
            spec.id,
            tower.side,
            chosen.name,
            manifest.precision,
            device,
            batch=choice.batch or contract.USUAL_BATCHES[1],
            threads=threads,
            streams=choice.streams,
            input=pixel_dtype(folder, tower) if tower.side == "image" else "float32",
        )
        request = request_of(cell, spec, folder, tower)
        yield replace(request, held=str(file)), tower


def pixel_dtype(folder: Path, tower: Artifact) -> PixelDtype:
    """What the image tower of a folder takes.

    Raises:
        ArtifactError: that is neither of `PIXEL_DTYPES`.
    """
    found = tower.inputs[0].dtype
    if found not in PIXEL_DTYPES:
        raise ArtifactError(f"the image tower of {folder} takes {found!r}: export the model again")
    return found


def request_of(cell: Cell, spec: ModelSpec, folder: Path, tower: Artifact) -> EngineRequest:
    """What opens a tower of an artifact folder as a cell says."""
    path, caches = str(folder / tower.path), cache_folder()
    cache = None if caches is None else str(caches)
    return EngineRequest(cell, spec, path, tower.normalized, tower.key, cache)


def read_pixels(folder: Path) -> PreprocessSpec:
    """An artifact folder's `preprocess.json`."""
    return pixels_in(folder / PREPROCESS_FILE)


def pixels_in(file: Path) -> PreprocessSpec:
    """What a `preprocess.json` says."""
    return PreprocessSpec.from_json(read_json(file))


def check_sizes(held: Held, tower: Artifact) -> None:
    """Notice a missing or truncated file; runtimes say it less clearly, or not at all."""
    found = 0
    for name in tower.files:
        size = regular_bytes(held.path(name))
        if size is None:
            raise ArtifactError(f"{held.path(name)} is missing: export the model again")
        found += size
    if found != tower.disk_bytes:
        raise ArtifactError(
            f"the {tower.side} tower of {held.folder} is damaged: its files have {found} bytes, "
            f"expected {tower.disk_bytes}; export the model again"
        )


def check_small(held: Held, manifest: Manifest, names: Iterable[str]) -> None:
    """Notice a change of the small files that decide what a tower is given.

    Raises:
        ArtifactError: one is missing, or its sha256 is not the manifest's.
    """
    for name in names:
        path = held.path(name)
        if regular_bytes(path) is None:
            raise ArtifactError(f"{path} is missing: export the model again")
        if sha256_file(path) != manifest.files.get(name):
            raise ArtifactError(
                f"{path} was altered: its sha256 is not the manifest's; export the model again"
            )


def open_engines(requests: Iterable[EngineRequest]) -> dict[Side, Engine]:
    """The engines of towers by side; where one cannot be opened, those before it are closed.

    Raises:
        EngineError, MissingDependencyError: see `load`.
    """
    engines: dict[Side, Engine] = {}
    with contextlib.ExitStack() as opened:
        for request in requests:
            engine = _engine(request)
            opened.callback(engine.close)
            engines[request.cell.side] = engine
        opened.pop_all()
    return engines


def _engine(request: EngineRequest) -> Engine:
    """The engine of one tower; a runtime that cannot run here says what is missing."""
    runtime = contract.get(request.cell.runtime)
    try:
        return runtime.open(request)
    except UnsupportedError:  # on no machine
        raise
    except (EngineError, MissingDependencyError, ImportError) as exc:
        found = runtime.availability(request.cell.device)
        if found.usable:
            raise
        kind = MissingDependencyError if isinstance(exc, ImportError) else type(exc)
        raise kind(
            f"{request.path}: {runtime.name} cannot run here: {found.detail}. To use it: "
            f"{found.fix}"
        ) from exc
