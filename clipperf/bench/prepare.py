"""Everything that must exist before the first measurement, made outside of what is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from clipperf.bench.jobs import Prepared
from clipperf.bench.retries import ended_of
from clipperf.engines import contract
from clipperf.engines.candidates import usual_precisions
from clipperf.engines.processor import check_cell
from clipperf.errors import ClipperfError, MissingDependencyError, UsageError
from clipperf.evals.worker import ModelRequest
from clipperf.export import derived
from clipperf.export.exporter import chosen, find
from clipperf.export.make import serving
from clipperf.models import sample, zoo
from clipperf.models.checkpoint_files import parts
from clipperf.models.family import FAMILIES, family_of
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import OWN_SIZES, ModelSpec, Sizes
from clipperf.nouns.variant import (
    BASELINE_PRECISION,
    BASELINE_RUNTIME,
    FLOATS,
    PRECISIONS,
    SIDES,
    PixelDtype,
    Side,
    Variant,
)
from clipperf.serve.towers import request_of
from clipperf.system import store

ARTIFACT = "onnx"
"""The runtime whose folders serve those that load none of their own."""

OnStage = Callable[[str], None]


def choose_models(
    names: Sequence[str], pretrained: str | None, sizes: Sizes = OWN_SIZES
) -> list[ModelSpec]:
    """The named models; without a name every model that is exported, else the bundled sample."""
    if names:
        return [zoo.resolve(name, pretrained, sizes) for name in names]
    for option, value in (
        ("--pretrained", pretrained),
        ("--image-size", sizes.image_px),
        ("--context-length", sizes.context_tokens),
    ):
        if value is not None:
            raise UsageError(f"{option} needs a MODEL to go with it")
    exported = {manifest.spec.id: manifest.spec for _, manifest in store.find_artifacts()}
    # What a package has exported that is no longer installed cannot be built to compare with.
    usable = [spec for spec in exported.values() if FAMILIES.find(spec.family) is not None]
    return usable or [zoo.resolve(sample.NAME)]


def choose_devices(runtimes: Sequence[str], device: str | None) -> dict[str, str]:
    """Where each runtime runs: on `device`; without one on the GPU as soon as one of them must.

    Runtimes that know the CPU alone stay there then.

    Raises:
        UsageError: an unknown runtime, or one that does not run on `device`.
    """
    known = {name: contract.get(name).devices for name in runtimes}
    if device is None:
        return together(known)
    for name, devices in known.items():
        if device not in devices:
            raise UsageError(f"runtime {name} runs on {', '.join(devices)}, not on {device!r}")
    return dict.fromkeys(runtimes, device)


def together(known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """One of each runtime's devices: the GPU as soon as one of them must; see `choose_devices`."""
    wanted = "cpu" if all("cpu" in devices for devices in known.values()) else "cuda"
    return {name: wanted if wanted in devices else devices[0] for name, devices in known.items()}


def check_usable(devices: Mapping[str, str]) -> None:
    """Make sure that every runtime can run on its device on this machine.

    Raises:
        MissingDependencyError: one cannot; the message says what would make it.
    """
    missing = []
    for name, device in devices.items():
        found = contract.get(name).availability(device)
        if not found.usable:
            missing.append(f"runtime {name} on {device}: {found.detail}. To use it: {found.fix}")
    if missing:
        raise MissingDependencyError("; ".join(missing))


def check_precisions(runtimes: Iterable[str], precisions: Sequence[str]) -> None:
    """Make sure that one of the runtimes has each precision, wherever they run.

    Raises:
        UsageError: none of them has it.
    """
    known = dict.fromkeys(p for name in runtimes for p in contract.get(name).precisions)
    for precision in precisions:
        if precision not in known:
            raise UsageError(
                f"no precision {precision!r} in {', '.join(runtimes)}; "
                f"choose from {', '.join(known)}"
            )


def baseline_precisions(device: str, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """What PyTorch is measured in beside fp32, of what is `asked` for: what gains there.

    On a GPU all that it has, on a CPU what a processor may have instructions for. None: whatever
    `tune` tries.
    """
    own = contract.get(BASELINE_RUNTIME).precisions
    gaining = own if device != "cpu" else tuple(p for p in own if PRECISIONS.get(p).instructions)
    wanted = usual_precisions(device) if asked is None else asked
    return tuple(p for p in gaining if p in wanted and p != BASELINE_PRECISION)


def check_features(runtimes: Iterable[str]) -> None:
    """Make sure that all of the runtimes give features beside embeddings.

    Raises:
        UsageError: one does not.
    """
    for name in runtimes:
        if not contract.get(name).features:
            known = ", ".join(each.name for each in contract.RUNTIMES if each.features)
            raise UsageError(f"{name} gives embeddings alone: --features is for {known}")


def choose_inputs(
    runtimes: Sequence[str], inputs: Sequence[PixelDtype], asked: str = "--input uint8"
) -> dict[str, Sequence[PixelDtype]]:
    """What each runtime's image towers are fed: `inputs`, float32 where it loads no artifact.

    `asked` is how uint8 was asked for.

    Raises:
        UsageError: uint8 is asked for, and none of them takes it.
    """
    known = {name: inputs if contract.get(name).artifact else FLOATS for name in runtimes}
    if "uint8" in inputs and all(found is FLOATS for found in known.values()):
        raise UsageError(
            f"{asked} is for runtimes that load exported towers, not {', '.join(runtimes)}"
        )
    return known


def artifact_folder(
    spec: ModelSpec,
    sides: Sequence[Side],
    variant: Variant,
    on_stage: OnStage,
    batches: tuple[int, int] = (1, 1),
    margin: float | None = None,
    as_expected: bool = False,
) -> Path:
    """The folder with what a runtime loads for a variant, exported now where there is none.

    A runtime that builds the tower from the weights gets the ONNX folder, for its tokenizer and
    preprocessing. Towers take the batches from the smallest of `batches` to the largest at least;
    those that users exported with settings of their own are taken where they do. `margin` are the
    points that quantised towers may lose on the sample, None: as usual. What is to be as fast
    `as_expected` may not keep too many layers, however it was made; see `derived`.

    Raises:
        UsageError: the runtime does not have the precision; and whatever `make` raises.
    """
    runtime, row = contract.get(variant.runtime), variant.row
    if row.name not in runtime.precisions:
        known = ", ".join(runtime.precisions)
        raise UsageError(f"no precision {row.name!r} for {runtime.name}; choose from {known}")
    wanted = chosen(loaded_by(variant), {"--margin": margin}, strict=False)
    if not as_expected:
        return serving(spec, sides, wanted, batches, on_stage)
    folder = serving(spec, sides, derived.as_expected(wanted), batches, on_stage)
    derived.check_expected(store.read_manifest(folder).towers)
    return folder


def loaded_by(variant: Variant) -> Variant:
    """The variant of the artifact that a variant's runtime loads.

    A runtime that loads none gets the ONNX one in fp32, and a precision that is the runtime's
    alone the graph behind it.
    """
    made = contract.get(variant.runtime).artifact
    precision = variant.precision if made is not None else BASELINE_PRECISION
    if find(made or ARTIFACT, precision) is None:
        precision = variant.row.graph
    return dataclasses.replace(variant, runtime=made or ARTIFACT, precision=precision)


def engine_request(
    cell: Cell,
    spec: ModelSpec,
    on_stage: OnStage,
    largest_batch: int | None = None,
    margin: float | None = None,
) -> tuple[EngineRequest, int | None]:
    """What opens a cell's engine, and the bytes that the tower takes on disk, None if unknown.

    `largest_batch` is that of a sweep, in which a cell runs whole batches of its own size; without
    it the engine takes any batch up to the cell's. `margin` is as for `artifact_folder`.

    Raises:
        UnsupportedError: the processor does not multiply the cell's precision.
    """
    if contract.get(cell.runtime).artifact is None:
        check_cell(cell)
        return EngineRequest(cell, spec, None), checkpoint_bytes(spec, cell.side)
    smallest = 1 if largest_batch is None else cell.batch
    batches = (smallest, max(cell.batch, largest_batch or 1))
    variant = Variant(cell.runtime, cell.precision, cell.input)
    return request_in(
        artifact_folder(spec, [cell.side], variant, on_stage, batches, margin), cell, spec
    )


def request_in(folder: Path, cell: Cell, spec: ModelSpec) -> tuple[EngineRequest, int]:
    """What opens a cell's engine from the folder that was made for it, and the tower's bytes.

    Raises:
        UsageError: the tower takes texts of another length.
    """
    tower = store.read_manifest(folder).tower(cell.side)
    if tower is None:  # it has just been made
        raise UsageError(f"{folder} lost its {cell.side} tower; export it again")
    if None not in (tower.tokens, cell.tokens) and tower.tokens != cell.tokens:
        raise UsageError(
            f"the text tower of {spec.id} takes {tower.tokens} tokens and no other number: give "
            f"--tokens {tower.tokens}, in a sweep's plan tokens = {tower.tokens}"
        )
    return request_of(cell, spec, folder, tower), tower.disk_bytes


def checkpoint_bytes(spec: ModelSpec, side: Side) -> int | None:
    """What one tower takes of its checkpoint: the files' bytes by its share of the parameters.

    Random weights have no file and count four bytes a parameter. None where the number of
    parameters is not known.
    """
    own = spec.parameters(side)
    if not own:
        return None
    if spec.random_weights:
        return own * 4
    size = sum(file.stat().st_size for file in parts(family_of(spec).fetch(spec)))
    return round(size * own / max(1, sum(map(spec.parameters, SIDES))))


def model_request(
    cell: Cell, spec: ModelSpec, on_stage: OnStage, features: bool = False
) -> ModelRequest:
    """What embeds in a cell with both towers, exported now where it is not there."""
    variant = Variant(cell.runtime, cell.precision, cell.input, features=features)
    folder = artifact_folder(spec, SIDES, variant, on_stage, (1, cell.batch))
    cells = [dataclasses.replace(cell, side=side) for side in SIDES]
    if contract.get(cell.runtime).artifact is None:
        towers = [EngineRequest(each, spec, None) for each in cells]
    else:
        towers = [request_in(folder, each, spec)[0] for each in cells]
    return ModelRequest(folder, tuple(towers), features)


def unprepared(cell: Cell, spec: ModelSpec, exc: ClipperfError) -> Prepared:
    """A cell that cannot be opened, and why."""
    return Prepared(EngineRequest(cell, spec, None), error=str(exc), ended=ended_of(exc))


def weights_of(spec: ModelSpec) -> str | None:
    """What tells a model's weights from others; None where they are not here."""
    try:
        return zoo.weights_id(spec)
    except ClipperfError:
        return None
