"""`clipperf tune`: the best candidate of each tower, written down for `clipperf.load`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipperf.bench import cost, prepare
from clipperf.bench.passes import memory_pass
from clipperf.bench.search import Search, Space, described, splits
from clipperf.engines import contract
from clipperf.engines.candidates import candidates, deployable, usable
from clipperf.errors import MissingDependencyError, UsageError
from clipperf.export import folder
from clipperf.export.derived import MARGIN
from clipperf.export.make import present_weights
from clipperf.export.workshop import Workshop
from clipperf.models.family import family_of
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.tuning import Trial, TunedTower, Tuning
from clipperf.nouns.variant import BASELINE_PRECISION, PRECISIONS, SIDES, Side
from clipperf.serve import tuned
from clipperf.system import env, files, store
from clipperf.system.foreign import carry_over, check, is_empty
from clipperf.system.targets import kind_of, real

BATCHES = (1, 8, 32)
CAPTION_TOKENS = 16
"""The length of texts where the user does not say: a caption of a dozen words with its two ends."""


@dataclass(frozen=True)
class Wishes:
    """What to tune, and what it must keep to; None for what is found out.

    `max_batch_s` bounds the time of a batch in seconds, `margin` the percentage points of recall@1
    and top-1 that a quantised tower may lose. `budget_s` is for all towers together.
    """

    spec: ModelSpec
    sides: tuple[Side, ...] = SIDES
    runtimes: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    batches: tuple[int, ...] = BATCHES
    threads: tuple[int, ...] | None = None
    streams: tuple[int, ...] | None = None
    tokens: int | None = None
    device: str | None = None
    max_batch_s: float | None = None
    margin: float = MARGIN
    budget_s: float = 600.0


def tune(
    wishes: Wishes,
    path: Path,
    *,
    command: str = "",
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Tuning:
    """Search every tower and write the tuning file; an older one stays until that is done.

    Raises:
        UsageError: wishes that nothing can meet; the message names the option.
        MissingDependencyError: no runtime works here.
        MeasurementError: no candidate works, or none keeps to the bound.
        WeightsError: the model's weights cannot be had.
        StorageError: the file cannot be written.
    """
    elapsed_s = cost.stopwatch()
    files.check_writable(path)  # before the work, not after it
    environment = env.capture()
    spec = wishes.spec
    devices = usable_devices(wishes.runtimes, wishes.precisions, wishes.device)
    present_weights(spec, Workshop(), on_stage)  # without them no candidate can be made
    towers: list[TunedTower] = []
    trials: list[Trial] = []
    for number, side in enumerate(wishes.sides):
        search = Search(
            space=space(wishes, side, devices),
            request=lambda cell: prepare.engine_request(
                cell, spec, on_stage, max(wishes.batches), wishes.margin
            ),
            env=environment,
            budget_s=(wishes.budget_s - elapsed_s()) / (len(wishes.sides) - number),
            max_batch_s=wishes.max_batch_s,
            text_ids=family_of(spec).text_ids(spec),
            on_stage=on_stage,
        )
        best, request = search.run()
        on_stage(f"memory of {described(best.cell)}")
        memory = memory_pass(request, cost.QUICK, environment, search.text_ids)
        towers.append(_tower(best, request, memory.rss_peak_bytes, path))
        trials += search.trials.values()
    tuning = Tuning(
        schema_version=store.SCHEMA_VERSION,
        kind="tuning",
        command=command,
        created_utc=files.utc_now(),
        environment=environment,
        spec=spec,
        max_batch_s=wishes.max_batch_s,
        margin=wishes.margin,
        budget_s=wishes.budget_s,
        spent_s=elapsed_s(),
        towers=tuple(towers),
        trials=tuple(trials),
    )
    files.write_json(path, tuning)
    return tuning


def check_bundle(target: Path) -> None:
    """Refuse to replace a folder that holds something else than a bundle, or cannot be replaced.

    Raises:
        UsageError: it does, or holds what cannot be kept.
        StorageError: it is no folder, or a file system is mounted there.
    """
    kind = kind_of(target)
    if kind == "nothing":
        return
    files.check_replaceable(real(target))
    if kind_of(target / tuned.FILE) == "file":
        coming = (f"{side}/{store.MANIFEST_NAME}" for side in SIDES)
        check(target, _own_files(target), (tuned.FILE, *coming))
    elif not is_empty(target):
        raise UsageError(f"--bundle {target} holds something else: choose another folder")


def write_bundle(tuning: Tuning, path: Path, target: Path) -> None:
    """Make a folder of a tuning and the towers that it names, whole or not at all.

    What users put beside them stays. `path` is the tuning's file, from which the artifacts are
    seen.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    with files.locked(target), files.staged(target) as staging:
        towers = []
        for tower in tuning.towers:
            folder.copy_tower(path.parent / tower.artifact, tower.cell.side, staging)
            towers.append(dataclasses.replace(tower, artifact=tower.cell.side))
        bundled = dataclasses.replace(tuning, towers=tuple(towers))
        files.write_json(staging / tuned.FILE, bundled)
        carry_over(target, staging, _own_files(target))


def _own_files(bundle: Path) -> Callable[[str], bool]:
    """Which files of a bundle, by their paths in there, are clipperf's."""
    own = {side: folder.own_files(bundle / side) for side in SIDES}

    def ours(name: str) -> bool:
        side, _, rest = name.partition("/")
        return name == tuned.FILE or any(side == key and own[key](rest) for key in own)

    return ours


def usable_devices(
    runtimes: Sequence[str] | None, precisions: Sequence[str] | None, device: str | None
) -> dict[str, str]:
    """Where each runtime that `clipperf.load` opens runs: on the GPU where one can be used.

    So do those without an artifact that are named beside one: they are measured as baselines.

    Raises:
        UsageError: a named runtime is unknown or does not run on `device`, none of them makes an
            artifact; a precision that none which does has.
        MissingDependencyError: a named runtime, or every one, is not usable here.
    """
    if runtimes is not None:
        own = [name for name in runtimes if contract.get(name).artifact is not None]
        if not own:
            raise UsageError(
                f"--runtime {','.join(runtimes)}: no artifact that clipperf.load could open; add "
                f"one of {', '.join(deployable())}"
            )
        devices = prepare.choose_devices(runtimes, device)
        prepare.check_usable(devices)
        prepare.check_precisions(own, precisions or ())
        return devices
    devices = usable(deployable(), device)
    if not devices:
        raise MissingDependencyError(
            f"no runtime works on {device or 'this machine'}: clipperf doctor says what is missing"
        )
    _check_brought(devices, precisions or (), device)
    prepare.check_precisions(devices, precisions or ())
    return devices


def _check_brought(
    devices: Mapping[str, str], precisions: Sequence[str], device: str | None
) -> None:
    """Make sure that no precision is lacking for want of a package.

    Raises:
        MissingDependencyError: one that a runtime has which is not usable here, and no other; the
            message names what would make it.
    """
    here = {name for runtime in devices for name in contract.get(runtime).precisions}
    others = [contract.get(name) for name in deployable() if name not in devices]
    for precision in precisions:
        for runtime in others if precision not in here else ():
            place = device or runtime.devices[0]
            found = runtime.availability(place) if place in runtime.devices else None
            if precision in runtime.precisions and found is not None and not found.usable:
                raise MissingDependencyError(
                    f"precision {precision} is {runtime.name}'s: {found.detail}. To use it: "
                    f"{found.fix}"
                )


def space(wishes: Wishes, side: Side, devices: dict[str, str]) -> Space:
    """The candidates of one tower.

    Raises:
        UsageError: more streams than threads, or than any of the runtimes can run.
    """
    pairs = _splits(wishes)
    threads, streams = max(pairs, key=lambda pair: (pair[0], -pair[1]))
    streaming = frozenset(name for name in devices if contract.get(name).streams)
    tokens = None
    if side == "text":
        tokens = min(wishes.tokens or CAPTION_TOKENS, wishes.spec.context_tokens)
    batches = tuple(sorted(wishes.batches))

    def cell(runtime: str, precision: str, streams: int = streams) -> Cell:
        return Cell(
            model_id=wishes.spec.id,
            side=side,
            runtime=runtime,
            precision=precision,
            device=devices[runtime],
            batch=batches[len(batches) // 2],
            threads=threads,
            tokens=tokens,
            streams=streams,
        )

    own = {n: place for n, place in devices.items() if contract.get(n).artifact is not None}
    # A search for layers to keep takes minutes, so what goes without is made before it.
    quick_first = sorted(
        candidates(own, wishes.precisions, (side,)),
        key=lambda each: PRECISIONS.get(each.precision).samples,
    )
    firsts = tuple(
        cell(each.runtime, each.precision)
        for each in quick_first
        if streams == 1 or each.runtime in streaming
    )
    baselines = tuple(
        cell(name, precision, streams=1)
        for name in devices
        if name not in own
        for precision in (
            BASELINE_PRECISION,
            *prepare.baseline_precisions(devices[name], wishes.precisions),
        )
    )
    if not firsts:
        raise UsageError(
            f"--streams {streams}: {', '.join(devices)} runs one batch at a time; leave it out"
        )
    return Space(firsts, pairs, batches, streaming, baselines)


def _splits(wishes: Wishes) -> tuple[tuple[int, int], ...]:
    cores = env.available_cores()
    if wishes.threads is None and wishes.streams is None:
        return splits(cores)
    threads, streams = wishes.threads or (cores,), wishes.streams or (1,)
    if max(streams) > max(threads):
        raise UsageError(
            f"--streams {max(streams)}: each needs a thread of its own, but --threads is "
            f"{max(threads)}"
        )
    return tuple((t, s) for t in threads for s in streams if s <= t)


def _tower(best: Trial, request: EngineRequest, peak_bytes: int | None, path: Path) -> TunedTower:
    assert request.path is not None and best.items_per_s is not None and best.batch_s is not None
    artifact = Path(request.path).parent.parent
    return TunedTower(
        cell=best.cell,
        artifact=os.path.relpath(artifact, path.parent),
        key=request.key,
        items_per_s=best.items_per_s,
        items_interval=best.items_interval,
        batch_s=best.batch_s,
        rss_peak_bytes=peak_bytes,
    )
