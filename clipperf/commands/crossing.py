"""`clipperf eval --index-compat A B`: which two engines are meant, and what is said of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.commands.options import (
    command_line,
    open_target,
    pixel_dtypes,
    print_json,
    print_tables,
    prints_json,
    tell_lines,
)
from clipperf.errors import UsageError
from clipperf.nouns.model import OWN_SIZES, Sizes
from clipperf.system.terminal import tell
from clipperf.text import quoted, shown

if TYPE_CHECKING:
    from clipperf.evals.compatibility import Candidate
    from clipperf.evals.evaluate import OnStage, Prepare
    from clipperf.nouns.artifact import Manifest
    from clipperf.nouns.model import ModelSpec

FORM = "RUNTIME:PRECISION, such as onnx:fp16, or an artifact folder"


@dataclass(frozen=True)
class Model:
    """Which models a user names, and in which sizes; by default as every command chooses them."""

    names: Sequence[str] = ()
    pretrained: str | None = None
    sizes: Sizes = OWN_SIZES


@dataclass(frozen=True)
class Load:
    """How an engine is run, whichever it is."""

    device: str | None
    threads: int
    batch: int


def run(
    asked: tuple[str, str],
    model: Model,
    dataset: str,
    options: dict[str, Any],
    load: Load,
    prepare_cell: Prepare,
    margin: float | None,
    json: Path | None,
    quiet: bool,
) -> int:
    """Compare, print and write; the exit code, which is 1 where a margin was asked for and failed.

    `options` are those of `load_dataset`.
    """
    from clipperf.evals.compatibility import compare
    from clipperf.evals.crossing import Answer, answer_of
    from clipperf.evals.datasets import load_dataset
    from clipperf.evals.verdicts import MARGIN
    from clipperf.report.crossing import answers, crossing_tables
    from clipperf.system.progress import progress

    with open_target(json, "eval") as target, progress(quiet, total=1) as bar:
        pairs = pairs_of(asked, model, load, prepare_cell, bar.stage)
        bar.stage(f"reading dataset {shown(dataset)}")
        data = load_dataset(dataset, on_stage=bar.stage, **options)
        crossed = tuple(name for name in data.tasks if name in ("zeroshot", "retrieval"))
        data = dataclasses.replace(data, tasks=crossed, clip="", groups=())
        result = compare(
            pairs,
            data,
            batch=load.batch,
            margin=MARGIN if margin is None else margin,
            command=command_line(),
            path=target,
            on_stage=bar.stage,
            progress=bar.at,
        )
    if prints_json(json):
        print_json(result)
    else:
        print_tables(*crossing_tables([result]), write=tell)
        tell_lines("", f"result file: {result.path}")
    said = [answer_of(rows) for rows in answers([result])]
    return int(margin is not None and any(answer is not Answer.YES for answer in said))


def pairs_of(
    asked: tuple[str, str],
    model: Model,
    load: Load,
    prepare_cell: Prepare,
    on_stage: OnStage,
) -> list[tuple[Candidate, Candidate]]:
    """The two engines that are asked for, of each model; exported now where they are not there.

    Each is a runtime with a precision and, after another colon, the pixels that it takes, fp32 and
    float32 where they are left out; or an artifact folder, which says itself of which model it is.

    Raises:
        UsageError: one is neither, or models are given to folders.
    """
    from clipperf.bench import prepare
    from clipperf.system.store import read_manifest

    folders = [_folder(text) for text in asked]
    manifests = [None if folder is None else read_manifest(folder) for folder in folders]
    own = [manifest.spec for manifest in manifests if manifest is not None]
    if own and model != Model():
        raise UsageError(
            "an artifact folder given to --index-compat says of which model it is: leave out MODEL "
            "and its options"
        )
    specs = own[:1] or prepare.choose_models(model.names, model.pretrained, model.sizes)
    found: list[list[Candidate]] = []
    for text, folder, manifest in zip(asked, folders, manifests, strict=True):
        if folder is not None and manifest is not None:
            found.append([_exported(text, folder, manifest, load)])
        else:
            found.append(_in_cells(text, specs, load, prepare_cell, on_stage))
    return list(zip(*found, strict=True))


def _folder(text: str) -> Path | None:
    """The artifact folder that is meant; None where a runtime is."""
    from clipperf.engines.contract import RUNTIMES
    from clipperf.system.targets import expanded

    if RUNTIMES.find(text.partition(":")[0]) is not None:
        return None
    path = expanded(text)
    if not path.is_dir():
        known = ", ".join(RUNTIMES.names())
        raise UsageError(
            f"--index-compat {quoted(text)}: give {FORM}; runtimes are {known}, and there is no "
            f"folder {shown(path)}"
        )
    return path


def _exported(text: str, folder: Path, manifest: Manifest, load: Load) -> Candidate:
    """What an artifact folder opens."""
    from clipperf.bench import prepare
    from clipperf.evals.compatibility import Candidate
    from clipperf.evals.worker import ModelRequest
    from clipperf.nouns.cell import Cell
    from clipperf.nouns.variant import SIDES
    from clipperf.serve.towers import pixel_dtype

    spec, runtime = manifest.spec, manifest.runtime
    devices = prepare.choose_devices([runtime], load.device)
    prepare.check_usable(devices)
    requests = []
    for side in SIDES:
        if (tower := manifest.tower(side)) is None:
            raise UsageError(
                f"{shown(folder)} has no {side} tower, and --index-compat needs both: export it "
                f"with clipperf export {spec.id} --out {shown(folder)}"
            )
        taken = pixel_dtype(folder, tower) if side == "image" else "float32"
        cell = Cell(
            spec.id,
            side,
            runtime,
            manifest.precision,
            devices[runtime],
            load.batch,
            load.threads,
            input=taken,
        )
        requests.append(prepare.request_in(folder, cell, spec)[0])
    return Candidate(shown(text), spec, ModelRequest(folder, tuple(requests)))


def _in_cells(
    text: str,
    specs: Sequence[ModelSpec],
    load: Load,
    prepare_cell: Prepare,
    on_stage: OnStage,
) -> list[Candidate]:
    """What a runtime and a precision are for each model."""
    from clipperf.bench import prepare
    from clipperf.evals.compatibility import Candidate
    from clipperf.nouns.cell import Cell
    from clipperf.nouns.variant import BASELINE_PRECISION, FLOATS, SIDES

    runtime, precision, taken, *more = *text.split(":"), *[""] * 2
    if any(more):
        raise UsageError(f"--index-compat {quoted(text)}: give {FORM}")
    precision = precision or BASELINE_PRECISION
    devices = prepare.choose_devices([runtime], load.device)
    prepare.check_usable(devices)
    prepare.check_precisions([runtime], [precision])
    (pixels,) = pixel_dtypes(taken or FLOATS[0], SIDES, several=False)
    prepare.choose_inputs([runtime], [pixels])
    candidates = []
    for spec in specs:
        cell = Cell(
            spec.id,
            "image",
            runtime,
            precision,
            devices[runtime],
            load.batch,
            load.threads,
            input=pixels,
        )
        candidates.append(Candidate(cell.setup, spec, prepare_cell(cell, spec, on_stage)))
    return candidates
