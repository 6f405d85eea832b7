"""From an artifact folder to the requests that open its towers; reads no more than it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from clipperf.engines import contract
from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs.preprocess_spec import PREPROCESS_FILE, PreprocessSpec
from clipperf.nouns.artifact import Artifact, Manifest
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PixelDtype, Side
from clipperf.system.env import available_cores
from clipperf.system.files import read_json
from clipperf.system.store import cache_folder

DEFAULT_BATCH = 32


@dataclass(frozen=True)
class Opening:
    """What to open of one artifact folder, and how; None where the artifact or machine decides.

    `side` None means every tower. `key` is that of the tower which was tuned.
    """

    folder: Path
    side: Side | None = None
    runtime: str | None = None
    device: str | None = None
    threads: int | None = None
    streams: int = 1
    batch: int = DEFAULT_BATCH
    key: str | None = None


def requests(opening: Opening, manifest: Manifest) -> Iterator[tuple[EngineRequest, Artifact]]:
    """What opens each wanted tower of an artifact folder, beside its entry in the manifest."""
    folder, spec = opening.folder, manifest.spec
    chosen = contract.get(opening.runtime or manifest.runtime)
    if chosen.artifact != manifest.runtime:
        raise UsageError(
            f"{chosen.name} does not load {manifest.runtime} artifacts, which {folder} holds; "
            f"export the model for it: clipperf export {spec.id} --runtime {chosen.artifact}"
        )
    device = opening.device or chosen.devices[0]
    if device not in chosen.devices:
        raise UsageError(f"{chosen.name} runs on {', '.join(chosen.devices)}, not on {device!r}")
    threads = opening.threads or available_cores()
    if opening.streams > 1 and not chosen.streams:
        raise UsageError(f"{chosen.name} runs one batch at a time; leave streams out")
    if opening.streams > threads:
        raise UsageError(
            f"streams is {opening.streams}, but each needs a thread of its own, and threads is "
            f"{threads}"
        )
    for tower in manifest.towers:
        if opening.side not in (None, tower.side):
            continue
        if opening.key not in (None, tower.key):
            raise ArtifactError(
                f"{folder} was exported anew since the tuning: run clipperf tune {spec.id} again"
            )
        check_sizes(folder, tower)
        cell = Cell(
            spec.id,
            tower.side,
            chosen.name,
            manifest.precision,
            device,
            batch=1,
            threads=threads,
            streams=opening.streams,
            input=cast(PixelDtype, tower.inputs[0].dtype) if tower.side == "image" else "float32",
        )
        yield request_of(cell, spec, folder, tower), tower


def request_of(cell: Cell, spec: ModelSpec, folder: Path, tower: Artifact) -> EngineRequest:
    """What opens a tower of an artifact folder as a cell says."""
    path, caches = str(folder / tower.path), cache_folder()
    cache = None if caches is None else str(caches)
    return EngineRequest(cell, spec, path, tower.normalized, tower.key, cache)


def read_pixels(folder: Path) -> PreprocessSpec:
    """An artifact folder's `preprocess.json`."""
    return PreprocessSpec.from_json(read_json(folder / PREPROCESS_FILE))


def check_sizes(folder: Path, tower: Artifact) -> None:
    """Notice a missing or truncated file; runtimes say it less clearly, or not at all."""
    found = 0
    for name in tower.files:
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name} is missing: export the model again")
        found += (folder / name).stat().st_size
    if found != tower.disk_bytes:
        raise ArtifactError(
            f"the {tower.side} tower of {folder} is damaged: its files have {found} bytes, "
            f"expected {tower.disk_bytes}; export the model again"
        )
