"""`clipperf eval`: every runtime's accuracy beside the PyTorch baseline's on the same samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clipperf.errors import ClipperfError
from clipperf.evals import accuracy, worker
from clipperf.evals.accuracy import Progress
from clipperf.evals.datasets import Dataset
from clipperf.evals.outcome import Outcome
from clipperf.evals.task import Embeddings, check, outcomes_of, unused
from clipperf.evals.verdicts import MARGIN
from clipperf.evals.worker import ModelRequest
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import ResultFile
from clipperf.nouns.variant import (
    BASELINE_PRECISION,
    BASELINE_RUNTIME,
    FLOATS,
    PRECISIONS,
    PixelDtype,
)
from clipperf.system import env, files, results, store, temporaries
from clipperf.system.child import Child
from clipperf.system.family import Guard

OnStage = Callable[[str], None]
Prepare = Callable[[Cell, ModelSpec, OnStage], ModelRequest]
"""Makes what a cell embeds with, exported on the way where needed."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A model and runtime that could not be scored, and why.

    `cause` is the error, where it is one of embedding.
    """

    label: str
    reason: str
    cause: ClipperfError | None = None


def evaluate(
    specs: Sequence[ModelSpec],
    devices: Mapping[str, str],
    dataset: Dataset,
    prepare: Prepare,
    *,
    precisions: Sequence[str] = (BASELINE_PRECISION,),
    baseline_precisions: Sequence[str] = (),
    inputs: Mapping[str, Sequence[PixelDtype]] | None = None,
    threads: int = 1,
    batch: int = accuracy.BATCH,
    margin: float = MARGIN,
    command: str = "",
    path: Path | None = None,
    on_stage: OnStage = lambda stage: None,
    progress: Progress | None = None,
    cells: Sequence[Cell] | None = None,
    guard: Callable[[Cell], Guard | None] = lambda cell: None,
    timeout_s: float | None = None,
) -> tuple[ResultFile, list[Failure]]:
    """Score every model in every runtime; the PyTorch baseline in fp32 always runs as well.

    It runs in those of `baseline_precisions` that are asked for, too.
    `margin` is the share of one that a figure may lose and still be called equivalent. `devices`
    says where each runtime runs, the baseline's too, and `inputs` what each one's image
    towers are fed, by default float32 alone. All runtimes share one tokenisation and, but for
    artifacts that were exported with another ``--preprocess`` (the file notes them), the exact
    preprocessing, so that differences come from the runtime alone. Each cell has a process of its
    own, one after the other; none where the store keeps all of its embeddings (`kept`). The file
    is written after every model that has scores (see `results.filled`). `cells` are those to
    score in place of all that, the baseline first where it is among them. `guard` makes who looks
    after a cell's process, and `timeout_s` how long one may be silent, by default for ever.

    Raises:
        ClipperfError: what the dataset's tasks lack, see `task.check`: before anything is embedded.
        StorageError: the result file cannot be written; checked before anything is embedded.
    """
    check(dataset)
    result = ResultFile(
        schema_version=store.SCHEMA_VERSION,
        kind="eval",
        command=command,
        created_utc=files.utc_now(),
        environments=(env.capture(),),
        specs=tuple(specs),
        notes=(*dataset.notes, *unused(dataset)),
        path=str(path or store.new_result_path("eval")),
    )
    failures: list[Failure] = []
    with (
        results.filled(Path(result.path)) as write,
        temporaries.scratch("eval") as scratch,
    ):
        shared = scratch / "dataset.json"
        files.write_json(shared, dataset)
        for spec in specs:
            wanted = (
                [cell for cell in cells if cell.model_id == spec.id]
                if cells is not None
                else cells_of(
                    spec, devices, precisions, baseline_precisions, inputs or {}, threads, batch
                )
            )
            embedded: dict[Cell, Embeddings] = {}
            for cell in wanted:
                on_stage(f"{cell.model_id} {cell.setup}")
                try:
                    request = prepare(cell, spec, on_stage)
                    notes = (*result.notes, *preprocessing_notes(request))
                    result = dataclasses.replace(result, notes=notes)
                    result = _with_features_said(result, request, spec)
                    kept = worker.kept_embeddings(request, dataset, batch)
                    embedded[cell] = kept or embed_apart(
                        request, shared, batch, progress, guard(cell), timeout_s
                    )
                except ClipperfError as exc:
                    failures.append(Failure(cell.label, str(exc), exc))
            outcomes: dict[Cell, list[Outcome]] = {}
            for cell, found in embedded.items():
                try:
                    outcomes[cell] = outcomes_of(dataset, found)
                except ClipperfError as exc:
                    failures.append(Failure(cell.label, _unscored(dataset, exc)))
            if any(outcomes.values()):
                scores = accuracy.rows_of(
                    dataset,
                    outcomes,
                    wanted[0] if wanted[0] in outcomes and is_baseline(wanted[0]) else None,
                    random_weights=spec.random_weights,
                    env_id=result.environments[0].id,
                    margin=margin,
                )
                result = dataclasses.replace(result, scores=(*result.scores, *scores))
                write(result)
    return result, failures


def _unscored(dataset: Dataset, exc: ClipperfError) -> str:
    """Why embeddings could not be scored, and of which dataset."""
    return str(exc) if str(exc).startswith(dataset.name) else f"{dataset.name}: {exc}"


def preprocessing_notes(request: ModelRequest) -> tuple[str, ...]:
    """What to say of a model whose images are not preprocessed exactly."""
    method = worker.read_preprocessing(request).method
    label = request.towers[0].cell.label
    return () if method == "exact" else (f"{label}: images preprocessed by {method!r}",)


def _with_features_said(result: ResultFile, request: ModelRequest, spec: ModelSpec) -> ResultFile:
    """With a note where features are asked for, and are none but the embeddings."""
    image = store.read_manifest(request.folder).tower("image") if request.features else None
    if image is None or len(image.outputs) > 1:
        return result
    said = f"{spec.id}: no projection is known in its image tower: its features are its embeddings"
    return dataclasses.replace(result, notes=tuple(dict.fromkeys((*result.notes, said))))


def embed_apart(
    request: ModelRequest,
    dataset: Path,
    batch: int,
    progress: Progress | None = None,
    guard: Guard | None = None,
    timeout_s: float | None = None,
) -> Embeddings:
    """Embed the dataset that a file holds in a process of its own, which a `guard` may end.

    So is it where it tells nothing for `timeout_s`.

    Raises:
        ClipperfError: the child reported it, or died; the message says of what.
    """
    target = dataset.with_name("embeddings.npz")
    threads = request.towers[0].cell.threads
    with Child(
        "clipperf.evals.worker",
        threads=threads,
        timeout_s=timeout_s,
        remedy="raise timeout_s of the plan if the cell is that slow",
        guard=guard,
    ) as child:
        child.ask(
            "embed",
            lambda told: None if progress is None else progress(*told),
            model=request,
            dataset=dataset,
            batch=batch,
            target=target,
        )
    return worker.load(target)


def is_baseline(cell: Cell) -> bool:
    """Whether it is what others are scored beside: PyTorch, in the precision of the weights."""
    return cell.runtime == BASELINE_RUNTIME and PRECISIONS.get(cell.precision).is_baseline


def cells_of(
    spec: ModelSpec,
    devices: Mapping[str, str],
    precisions: Sequence[str],
    baseline_precisions: Sequence[str],
    inputs: Mapping[str, Sequence[PixelDtype]],
    threads: int,
    batch: int,
) -> list[Cell]:
    """The baseline, then every other runtime in every precision, fed in every way."""
    own = (BASELINE_PRECISION, *(p for p in precisions if p in baseline_precisions))
    kinds = [(BASELINE_RUNTIME, p, FLOATS[0]) for p in dict.fromkeys(own)] + [
        (runtime, precision, dtype)
        for runtime in devices
        if runtime != BASELINE_RUNTIME
        for precision in precisions
        for dtype in inputs.get(runtime, FLOATS)
    ]
    return [
        Cell(spec.id, "image", runtime, precision, devices[runtime], batch, threads, input=dtype)
        for runtime, precision, dtype in kinds
    ]
