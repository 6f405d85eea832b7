"""The tower that `clipperf embed` opens: on this machine, or on those of a Ray cluster."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipperf.errors import ArtifactError, TuningWarning, UsageError
from clipperf.nouns.model import ModelSpec, Sizes
from clipperf.nouns.variant import BASELINE_PRECISION, Side, Variant
from clipperf.serve.towers import DEFAULT_BATCH
from clipperf.system.terminal import say

if TYPE_CHECKING:
    from clipperf.embed.away import Opening
    from clipperf.embed.machines import Machines
    from clipperf.nouns.cell import Cell
    from clipperf.serve.bulk import Tower
    from clipperf.system.cluster.running import Cluster
    from clipperf.system.cluster.shared import Shared

OnStage = Callable[[str], None]

KEPT = "the shards that are whole are there"


@dataclass(frozen=True)
class TowerWish:
    """What was asked for of the tower; None where nothing was."""

    side: Side
    model: str | None
    pretrained: str | None
    sizes: Sizes
    artifact: str | None
    runtime: str | None
    precision: str | None
    preprocess: str | None
    batch: int | None
    device: str | None
    threads: int | None
    streams: int | None

    @property
    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch of a tower that is exported for this."""
        return 1, self.batch or DEFAULT_BATCH


def opened(wish: TowerWish, on_stage: OnStage) -> Tower:
    """The tower, open here, and on standard error what its user should know.

    Raises:
        ClipperfError: it cannot be made or opened.
    """
    from clipperf.serve.bulk import open_tower

    folder, runtime = wish.artifact, wish.runtime
    if folder is None:
        from clipperf.bench import prepare

        spec, variant = _chosen(wish)
        runtime = variant.runtime
        prepare.check_usable(prepare.choose_devices([runtime], wish.device))
        made = prepare.artifact_folder(spec, [wish.side], variant, on_stage, wish.batches)
        folder = str(made)
    found = open_tower(
        folder,
        wish.side,
        runtime=runtime,
        threads=wish.threads,
        streams=wish.streams,
        device=wish.device,
        preprocess=wish.preprocess,
    )
    for problem in found.warnings:
        _warn(problem)
    if wish.batch is not None:
        found.batch = wish.batch
    return in_precision(found, wish.precision)


def in_precision(tower: Tower, asked: str | None) -> Tower:
    """The tower, where it runs in the precision that was asked for; else it is closed.

    Raises:
        UsageError: see `check_precision`.
    """
    try:
        check_precision(tower.cell, asked)
    except UsageError:
        tower.close()
        raise
    return tower


def check_precision(cell: Cell, asked: str | None) -> None:
    """Make sure that a tower runs in the precision that was asked for.

    Some precisions are settings of a runtime, not what is in a file.

    Raises:
        UsageError: it does not.
    """
    if asked not in (None, cell.precision):
        raise UsageError(
            f"--precision {asked} cannot be embedded with: {cell.runtime} opens what is exported "
            f"for it in {cell.precision}; choose another precision, or leave it out"
        )


def _chosen(wish: TowerWish) -> tuple[ModelSpec, Variant]:
    """The model that is named, or the one that is exported, and in what it is embedded with.

    Raises:
        UsageError: there are several, or the runtime opens nothing that is exported.
    """
    from clipperf.bench import prepare
    from clipperf.engines import contract

    names = [wish.model] if wish.model else []
    specs = prepare.choose_models(names, wish.pretrained, wish.sizes)
    if len(specs) > 1:
        known = ", ".join(sorted(spec.id for spec in specs)[:5])
        raise UsageError(f"several models are exported: name one with --model: {known}")
    runtime = wish.runtime or prepare.ARTIFACT
    if contract.get(runtime).artifact is None:
        raise UsageError(f"--runtime {runtime} runs weights, not what is exported: choose another")
    return specs[0], Variant(runtime, wish.precision or BASELINE_PRECISION)


def _warn(problem: str) -> None:
    say(f"warning: {problem}")


# --- on the machines of a cluster -----------------------------------------------------------


@contextlib.contextmanager
def machines(
    wish: TowerWish, address: str, url: str | None, dataset: Path, on_stage: OnStage
) -> Iterator[Machines]:
    """The machines of a cluster, with the tower; what they run is ended with the block.

    Raises:
        ClipperfError: the cluster cannot be joined or does not see `url`, by default a folder in
            the store, or the tower cannot be made or opened there.
    """
    from clipperf.embed.machines import Machines
    from clipperf.system import store
    from clipperf.system.cluster.owning import owned
    from clipperf.system.cluster.running import opened
    from clipperf.system.cluster.seeing import check_seen

    with (
        opened(address, on_stage, KEPT) as cluster,
        owned(url or str(store.home() / "ray")) as shared,
        contextlib.closing(cluster),  # before what its tasks write is removed
    ):
        check_seen(cluster, cluster.nodes, shared)
        if wish.artifact is not None:
            opening, device = _sent(wish, wish.artifact, shared)
        else:
            opening, device = _made(wish, cluster, shared, on_stage)
        found = Machines(cluster, opening, device, dataset, on_stage, _warn)
        check_precision(found.facts.cell, wish.precision)
        yield found


def _sent(wish: TowerWish, artifact: str, shared: Shared) -> tuple[Opening, str]:
    """What opens a tower that is exported or tuned here, and its device."""
    from clipperf.bench.away import share
    from clipperf.embed.away import Opening
    from clipperf.engines import contract
    from clipperf.serve.load import choices_at
    from clipperf.system.store import read_manifest

    with warnings.catch_warnings():  # it is not this machine that it will run on
        warnings.simplefilter("ignore", TuningWarning)
        path, choices = choices_at(
            artifact,
            threads=wish.threads,
            streams=wish.streams,
            runtime=wish.runtime,
            device=wish.device,
        )
    choice = next((each for each in choices if each.side in (None, wish.side)), None)
    if choice is None:
        raise ArtifactError(f"{path} has no {wish.side} tower: tune it, too")
    runtime = contract.get(choice.runtime or read_manifest(choice.folder).runtime)
    device = (choice.device or runtime.devices[0]).partition(":")[0]
    folder = share(shared, choice.folder)
    choice = replace(choice, folder=Path(), device=device)
    return Opening(folder, shared.url, choice, wish.side, wish.preprocess, wish.batch), device


def _made(
    wish: TowerWish, cluster: Cluster, shared: Shared, on_stage: OnStage
) -> tuple[Opening, str]:
    """What opens the tower of a model, and its device; one of the machines exports it.

    What is exported here is what they take.
    """
    from clipperf.bench import prepare
    from clipperf.bench.away import make_tower, place_of, share
    from clipperf.embed.away import Opening
    from clipperf.embed.machines import called
    from clipperf.engines import contract
    from clipperf.serve.towers import Choice
    from clipperf.system import gpus, store
    from clipperf.system.cluster.machines import Needs
    from clipperf.system.cluster.tasks import Task

    spec, variant = _chosen(wish)
    prepare.choose_devices([variant.runtime], wish.device)
    device = wish.device or contract.get(variant.runtime).devices[0]
    loaded = prepare.loaded_by(variant)
    known = tuple(
        share(shared, folder)
        for folder, manifest in store.find_artifacts()
        if manifest.spec.id == spec.id
        and (manifest.runtime, manifest.precision) == (loaded.runtime, loaded.precision)
    )
    args = (spec, wish.side, variant, device, wish.batches, place_of(shared), known)
    needs = Needs(gpus=int(device == gpus.CUDA))
    task = Task(f"artifact of {spec.id}", make_tower, args, needs, alone=False, whole=True)

    def told(task: Task, text: str) -> None:
        on_stage(text)

    folder = called(cluster, task, told, told)
    own = Choice(Path(), wish.side, variant.runtime, device, wish.threads, wish.streams or 1)
    return Opening(folder, shared.url, own, wish.side, wish.preprocess, wish.batch), device
