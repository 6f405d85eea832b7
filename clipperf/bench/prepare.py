"""Everything that must exist before the first measurement, made outside of what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clipperf import store
from clipperf.bench.inputs import CLIP_IDS, TextIds
from clipperf.engines import _contract
from clipperf.errors import MissingDependencyError, UsageError
from clipperf.export.build import export_model
from clipperf.models import catalog, sample, weights, zoo
from clipperf.types import Cell, EngineRequest, ModelSpec, Side

OTHER_VOCABULARY = TextIds(sot=None, eot=1, low=2, high=1000)
"""Ids that every tokenizer has: only their number matters for cost."""

OnStage = Callable[[str], None]


def choose_models(names: Sequence[str], pretrained: str | None) -> list[ModelSpec]:
    """The named models; without a name every model that is exported, else the bundled sample."""
    if names:
        return [zoo.resolve(name, pretrained) for name in names]
    if pretrained is not None:
        raise UsageError("--pretrained needs a MODEL to go with it")
    exported = {manifest.spec.id: manifest.spec for _, manifest in store.find_artifacts()}
    return list(exported.values()) or [zoo.resolve(sample.NAME)]


def check_runtimes(runtimes: Sequence[str], device: str, precisions: Sequence[str]) -> None:
    """Make sure that every runtime can run on `device` here, and one of them each precision.

    Raises:
        UsageError: unknown runtime or precision, or a runtime that does not run on this device.
        MissingDependencyError: it is not usable here; the message says what would make it.
    """
    for name in runtimes:
        runtime = _contract.get(name)
        if device not in runtime.devices:
            raise UsageError(
                f"runtime {name} runs on {', '.join(runtime.devices)}, not on {device!r}"
            )
        found = runtime.availability(device)
        if not found.usable:
            raise MissingDependencyError(f"runtime {name}: {found.detail}. To use it: {found.fix}")
    known = dict.fromkeys(p for name in runtimes for p in _contract.get(name).precisions)
    for precision in precisions:
        if precision not in known:
            raise UsageError(
                f"no precision {precision!r} in {', '.join(runtimes)}; "
                f"choose from {', '.join(known)}"
            )


def artifact_folder(
    spec: ModelSpec, precision: str, sides: Sequence[Side], on_stage: OnStage
) -> Path:
    """The folder with these towers in ONNX, exported now where it does not exist."""
    return export_model(spec, sides, precision, on_stage=on_stage).folder


def engine_request(cell: Cell, spec: ModelSpec, on_stage: OnStage) -> tuple[EngineRequest, int]:
    """What opens a cell's engine, and the bytes that the tower takes on disk."""
    if _contract.get(cell.runtime).artifact is None:
        return EngineRequest(cell, spec, None), checkpoint_bytes(spec, cell.side)
    folder = artifact_folder(spec, cell.precision, [cell.side], on_stage)
    tower = store.read_manifest(folder).tower(cell.side)
    if tower is None:  # export_model has just made it
        raise UsageError(f"{folder} lost its {cell.side} tower; export it again")
    return EngineRequest(cell, spec, str(folder / tower.path), tower.normalized), tower.disk_bytes


def checkpoint_bytes(spec: ModelSpec, side: Side) -> int:
    """What one tower takes of its checkpoint: the file's bytes by its share of the parameters.

    Random weights have no file and count four bytes a parameter.
    """
    counts = {"image": spec.image_parameters or 0, "text": spec.text_parameters or 0}
    if spec.random_weights:
        return counts[side] * 4
    path = sample.weights_path() if spec.family == "sample" else None
    size = (path or weights.locate(spec.architecture, spec.pretrained)).stat().st_size
    return round(size * counts[side] / max(1, sum(counts.values())))


def text_ids(spec: ModelSpec) -> TextIds:
    """Valid token ids for a model's synthetic texts."""
    kind = catalog.find(spec.architecture).text_kind
    return CLIP_IDS if kind == "clip-bpe" else OTHER_VOCABULARY
