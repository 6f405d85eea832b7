"""Evaluations on other machines, as the command at home sees them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from clipperf.bench import prepare
from clipperf.bench.away import new_place, place_of
from clipperf.bench.away_scores import (
    MadeModel,
    Scored,
    Scoring,
    models,
    needs_gpu,
    put_dataset,
    result_of,
    score,
)
from clipperf.bench.jobs import Away, Call, Event
from clipperf.bench.retries import ended_of
from clipperf.errors import ClipperfError, ClusterError, LostError, StorageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.evaluate import Failure, cells_of
from clipperf.evals.task import check, unused
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import ResultFile
from clipperf.nouns.variant import PixelDtype
from clipperf.system import files, results, store

OnStage = Callable[[str], None]


class Scorer:
    """What embeds in the cells of models, made on other machines, each once."""

    def __init__(self, machines: Away) -> None:
        self.machines = machines
        self._made: dict[tuple[object, ...], MadeModel] = {}

    def models(
        self,
        cells: Sequence[Cell],
        spec: ModelSpec,
        features: bool,
        on_stage: OnStage,
        again: bool = False,
    ) -> dict[Cell, MadeModel]:
        """What embeds in each cell, or why nothing does, which is found out once.

        What was not made as a process was killed is tried `again`.

        Raises:
            ClipperfError: a disk is full, or no machine is left.
        """
        if again:
            self._made = {
                key: made for key, made in self._made.items() if ended_of(made.error) != "killed"
            }
        missing = [cell for cell in cells if (spec, cell, features) not in self._made]
        if missing:
            known = self.machines.known.setdefault(spec.id, {})
            place = place_of(self.machines.shared)
            args = (tuple(missing), spec, features, place, tuple(known.values()))
            call = Call(f"artifacts of {spec.id}", models, args, needs_gpu(missing))
            try:
                found, folders = self.machines.call(call, on_stage)
            except LostError as exc:  # of these alone
                found, folders = [MadeModel(error=exc)] * len(missing), []
            known |= {folder.place: folder for folder in folders}
            self._made |= {(spec, c, features): m for c, m in zip(missing, found, strict=True)}
        return {cell: self._made[spec, cell, features] for cell in cells}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What `evaluate.evaluate` is asked for, but for models, dataset and target; see there."""

    devices: Mapping[str, str]
    precisions: Sequence[str]
    baseline_precisions: Sequence[str]
    inputs: Mapping[str, Sequence[PixelDtype]]
    threads: int
    batch: int
    margin: float
    features: bool = False
    command: str = ""

    def cells(self, spec: ModelSpec) -> tuple[Cell, ...]:
        """The cells of a model."""
        own, batch = self.baseline_precisions, self.batch
        return tuple(
            cells_of(spec, self.devices, self.precisions, own, self.inputs, self.threads, batch)
        )


def evaluate_away(
    machines: Away,
    specs: Sequence[ModelSpec],
    data: Dataset,
    asked: Asked,
    path: Path | None,
    on_stage: OnStage,
) -> tuple[ResultFile, list[Failure]]:
    """`evaluate.evaluate` with each model alone on one of other machines, several at once.

    The file is written whenever a model has scores; in it they stand in the order of the models.

    Raises:
        ClipperfError: what the dataset's tasks lack, that a disk is full, or no machine is left.
    """
    check(data)
    scorer, shared = Scorer(machines), machines.shared
    crossing = new_place(shared)
    result = ResultFile(
        schema_version=store.SCHEMA_VERSION,
        kind="eval",
        command=asked.command,
        created_utc=files.utc_now(),
        environments=tuple(machines.environments[:1]),
        specs=tuple(specs),
        notes=(*data.notes, *unused(data)),
        path=str(path or store.new_result_path("eval")),
    )
    found: dict[str, ResultFile] = {}
    failures: list[Failure] = []
    notes = list(result.notes)

    def told(event: Event) -> None:
        if event.kind == "note":
            notes.append(f"{event.group}: {event.text}")
        on_stage(event.text)

    with results.filled(Path(result.path)) as write:
        crossed = put_dataset(shared, data, crossing)

        def calls() -> Iterator[Call]:
            for number, spec in enumerate(specs):
                cells = asked.cells(spec)
                made = scorer.models(cells, spec, asked.features, on_stage)
                scoring = Scoring(
                    spec, cells, made, asked.batch, asked.margin, command=asked.command
                )
                place = crossing.inside(f"{number}")
                yield Call(spec.id, score, (scoring, crossed, place), needs_gpu(cells))

        def end(call: Call, value: Scored | None, error: ClipperfError | None) -> None:
            nonlocal result
            if value is None:
                assert error is not None
                if is_of_all(error):
                    raise error
                failures.append(Failure(call.name, str(error), error))
                return
            found[call.name], bad = result_of(shared, value)
            failures.extend(bad)
            result = _together(result, [found[s.id] for s in specs if s.id in found], notes)
            if result.scores:
                write(result)

        machines.calls(calls(), told, end)
        with contextlib.suppress(ClipperfError):
            shared.remove(crossing.name())
    return result, failures


def _together(result: ResultFile, found: Sequence[ResultFile], notes: Sequence[str]) -> ResultFile:
    """A result with the scores of several, each beside its machine."""
    machines = {env.id: env for each in found for env in each.environments}
    said = [*notes, *(note for each in found for note in each.notes)]
    return dataclasses.replace(
        result,
        environments=tuple(machines.values()) or result.environments,
        scores=tuple(score for each in found for score in each.scores),
        notes=tuple(dict.fromkeys(said)),
    )


def usable_there(tell: object, devices: Mapping[str, str]) -> None:
    """`prepare.check_usable` on a machine that measures."""
    prepare.check_usable(devices)


def is_of_all(error: ClipperfError) -> bool:
    """Whether an error is the disk's or the cluster's, so that nothing else would go better."""
    return isinstance(error, StorageError | ClusterError) and not isinstance(error, LostError)
