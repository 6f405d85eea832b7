"""Evaluations on other machines: what embeds is made there and shared, scores come home.

As in `away`, each function is one task's.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipperf.bench import away, prepare
from clipperf.bench.away import Crossed, Place
from clipperf.bench.cost import Limits
from clipperf.bench.limits import guard_of
from clipperf.bench.retries import ended_of, tried_twice
from clipperf.engines import contract
from clipperf.errors import ClipperfError, StorageError, UsageError
from clipperf.evals import evaluate
from clipperf.evals.datasets import Dataset
from clipperf.evals.evaluate import Failure
from clipperf.evals.kept import tokenizer_sums
from clipperf.evals.worker import ModelRequest, read_preprocessing
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Ended, ResultFile
from clipperf.serialize import from_json, parse_json, to_json
from clipperf.system import gpus, store
from clipperf.system.cluster.remote import Tell
from clipperf.system.cluster.shared import Shared, SharedFolder
from clipperf.system.housekeeping.in_use import using

NO_LIMITS = Limits()
NOWHERE = Path(os.devnull)
"""For what is written under another name, or elsewhere: a kill leaves nothing of it."""


@dataclass(frozen=True)
class MadeModel:
    """What embeds in a cell, the folder that it lies in, and what embeddings depend on; or why not.

    The paths in it are those of the machine which made it.
    """

    request: ModelRequest | None = None
    folder: SharedFolder | None = None
    made: tuple[object, ...] = ()
    error: ClipperfError | None = None


@dataclass(frozen=True)
class Scoring:
    """One model on a dataset: all that scoring it takes; see `evaluate.evaluate`."""

    spec: ModelSpec
    cells: tuple[Cell, ...]
    models: dict[Cell, MadeModel]
    batch: int
    margin: float
    limits: Limits = NO_LIMITS
    timeout_s: float | None = None
    features: bool = False
    command: str = ""


@dataclass(frozen=True)
class Scored:
    """A result that lies in the shared place, and what failed: label, reason, who ended it."""

    result: Crossed
    failures: tuple[tuple[str, str, Ended | None], ...]


def models(
    tell: Tell,
    cells: Sequence[Cell],
    spec: ModelSpec,
    features: bool,
    place: Place,
    known: Sequence[SharedFolder],
) -> tuple[list[MadeModel], list[SharedFolder]]:
    """Make what embeds in some cells of a model, and share it; all folders made on the way.

    Raises:
        StorageError: the disk, or the shared place, is full.
    """
    shared, begun_s = place.shared, time.time()
    found = []
    with using():
        away.fetch_missing(shared, known)
        for cell in cells:
            try:
                ask = functools.partial(prepare.model_request, cell, spec, tell, features)
                request = tried_twice(ask)
                folder = away.share(shared, request.folder)
                weights = prepare.weights_of(spec)  # which making has had fetched
                found.append(MadeModel(request, folder, made_of(request, weights)))
            except StorageError:
                raise
            except ClipperfError as exc:
                found.append(MadeModel(error=exc))
        folders = [model.folder for model in found if model.folder is not None]
        return found, away.made_since(shared, folders, begun_s)


def made_of(request: ModelRequest, weights: str | None) -> tuple[object, ...]:
    """What a cell's embeddings are made from: its towers, and how images and texts become inputs.

    The folder says the latter, and may be set anew without another tower.
    """
    return (
        [tower.key or f"weights {weights}" for tower in request.towers],
        read_preprocessing(request),
        tokenizer_sums(request.folder),
        store.read_manifest(request.folder).cut_at,
    )


def put_dataset(shared: Shared, data: Dataset, place: Place) -> Crossed:
    """A dataset in the shared place: what it says of its images, which lie where they are."""
    name = place.name("dataset.json")
    return Crossed(name, shared.put(name, json.dumps(to_json(data)).encode()))


def score(tell: Tell, asked: Scoring, data: Crossed, place: Place) -> Scored:
    """Score one model on a dataset, whose files this machine must see under the same paths.

    Raises:
        UsageError: it does not.
    """
    shared, place = place.shared, place.inside()
    dataset = dataset_of(shared, data)
    requests, errors = {}, {}
    with using():
        for cell, model in asked.models.items():
            try:
                requests[cell] = fetched(cell, model, asked, shared)
            except StorageError:
                raise
            except ClipperfError as exc:
                errors[cell] = exc

        def request_of(cell: Cell, spec: object, on_stage: object) -> ModelRequest:
            if cell in errors:
                raise errors[cell]
            return requests[cell]

        result, failures = evaluate.evaluate(
            (asked.spec,), {}, dataset, request_of, cells=asked.cells, batch=asked.batch,
            margin=asked.margin, command=asked.command, path=NOWHERE,
            on_stage=lambda text: tell(f"{text}: {dataset.name}"),
            guard=lambda cell: guard_of(asked.limits, cell.device), timeout_s=asked.timeout_s,
        )  # fmt: skip
    for each in failures:
        if isinstance(each.cause, StorageError):
            raise each.cause
    name = place.name("result.json")
    blob = shared.put(name, json.dumps(to_json(result)).encode())
    said = tuple((each.label, each.reason, ended_of(each.cause)) for each in failures)
    return Scored(Crossed(name, blob), said)


def dataset_of(shared: Shared, data: Crossed) -> Dataset:
    """A dataset from the shared place, whose files are on this machine.

    Raises:
        UsageError: they are not.
    """
    found = from_json(Dataset, parse_json(shared.get(data.name, data.blob), data.name))
    first = found.images[0].path if found.images else None
    if first is not None and not first.exists():
        raise UsageError(
            f"{found.name}: {first} is not on this machine: put the dataset where all machines "
            "see it under one path"
        )
    return found


def fetched(cell: Cell, model: MadeModel, asked: Scoring, shared: Shared) -> ModelRequest:
    """What embeds in a cell, with its artifact on this machine.

    Raises:
        ClipperfError: why there is none.
    """
    if model.request is None or model.folder is None:
        assert model.error is not None
        raise model.error
    folder = shared.fetch_folder(model.folder, store.home())
    towers = model.request.towers
    if contract.get(cell.runtime).artifact is not None:
        towers = tuple(prepare.request_in(folder, t.cell, asked.spec)[0] for t in towers)
    return dataclasses.replace(model.request, folder=folder, towers=towers)


def needs_gpu(cells: Iterable[Cell]) -> bool:
    """Whether one of the cells runs on a GPU."""
    return any(cell.device.partition(":")[0] == gpus.CUDA for cell in cells)


def result_of(shared: Shared, scored: Scored) -> tuple[ResultFile, list[Failure]]:
    """What has come home of a model on a dataset."""
    crossed = scored.result
    values = parse_json(shared.get(crossed.name, crossed.blob), crossed.name)
    result = from_json(ResultFile, values, crossed.name)
    return result, [Failure(label, reason) for label, reason, _ in scored.failures]
