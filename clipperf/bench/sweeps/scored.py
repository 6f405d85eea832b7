"""The models of a sweep on its datasets: each dataset read once, each model kept as a whole."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clipperf.bench import cost, prepare
from clipperf.bench.limits import guard_of
from clipperf.bench.sweeps import ledger
from clipperf.bench.sweeps.cells import Study, Unit
from clipperf.bench.sweeps.ledger import Ledger
from clipperf.bench.sweeps.plan_file import SweepPlan
from clipperf.bench.sweeps.tally import FAILED, Tally, ended_of, tried_twice, weights_of, worst
from clipperf.errors import ClipperfError, StorageError
from clipperf.evals import evaluate
from clipperf.evals.datasets import Dataset, check_dataset, load_dataset
from clipperf.evals.evaluate import Failure
from clipperf.evals.kept import tokenizer_sums
from clipperf.evals.worker import ModelRequest, read_preprocessing
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Environment, ResultFile
from clipperf.system import files, store
from clipperf.system.targets import expanded, kind_of


def check_datasets(plan: SweepPlan) -> None:
    """Raise UsageError for a dataset of a plan that is not there, before anything is begun."""
    for name in plan.datasets:
        check_dataset(_dataset_at(name, plan.path.parent))


class Datasets:
    """The evaluations of a study on a machine."""

    def __init__(self, study: Study, kept: Ledger, environment: Environment, tally: Tally) -> None:
        self.study, self.kept, self.environment, self.tally = study, kept, environment, tally
        self.again: list[Unit] = []
        self.errors: dict[Cell, ClipperfError] = {}

    def run(self) -> None:
        """All models on all datasets, then once more those of which a process was killed."""
        units = [unit for unit in self.study.units if unit.dataset is not None]
        self.again = []
        for name in dict.fromkeys(unit.dataset for unit in units):
            if self.tally.stopping():
                return
            assert name is not None
            self.on_dataset(name, [unit for unit in units if unit.dataset == name])

    def on_dataset(self, name: str, units: Sequence[Unit]) -> None:
        """All models on one dataset, which is read now."""
        try:
            data = load_dataset(
                _dataset_at(name, self.study.plan.path.parent),
                on_stage=lambda text: self.tally.tell("stage", text),
            )
        except StorageError:
            raise
        except ClipperfError as exc:
            for unit in units:
                self.tally.count(unit, self.blank(unit), bad=[Failure(unit.spec.id, str(exc))])
            return
        for last in (False, True):
            for unit in self.again if last else units:
                if self.tally.stopping():
                    return
                self.score(unit, data, last)
        self.again = []

    def blank(self, unit: Unit) -> ResultFile:
        """A result of a unit without scores."""
        return ledger.new_result("eval", self.kept.command, (self.environment,), (unit.spec,))

    def score(self, unit: Unit, data: Dataset, last: bool) -> None:
        """One model on a dataset, if that is not there."""
        requests: dict[Cell, ModelRequest] = {}
        errors: dict[Cell, ClipperfError] = {}
        for cell in unit.cells:
            if self.tally.stopping():
                return
            try:
                requests[cell] = self.prepared(cell, unit, last)
            except StorageError:
                raise
            except ClipperfError as exc:
                errors[cell] = exc
        env, plan, limits = self.environment, self.study.plan, self.study.settings.limits
        weights = weights_of(unit)
        made = [
            made_of(requests[cell], weights) if cell in requests else f"not made: {errors[cell]}"
            for cell in unit.cells
        ]
        key = files.digest_of(
            "eval", store.SCHEMA_VERSION, data.name, data.sha256, unit.cells, made, plan.margin,
            env.id,
        )  # fmt: skip
        there = None if last else self.kept.find(unit, key, limits)
        if there is not None:
            self.tally.count(unit, there, valid=True)
            return
        spent_s = cost.stopwatch()

        def request_of(cell: Cell, spec: object, on_stage: object) -> ModelRequest:
            if cell in errors:
                raise errors[cell]
            return requests[cell]

        result, failures = self.scored(unit, data, request_of)
        ended = worst([ended_of(each.cause) for each in failures])
        notes = (*result.notes, *(f"{FAILED}{f.label}: {f.reason}" for f in failures))
        result = self.kept.write(unit, key, ended, limits, dataclasses.replace(result, notes=notes))
        self.tally.spend(unit, spent_s())
        if ended == "killed" and not last:
            self.again.append(unit)
            self.tally.tell("again", f"{unit.id}: a process of it was killed", unit.id)
        else:
            self.tally.count(unit, result, bad=failures)

    def prepared(self, cell: Cell, unit: Unit, last: bool) -> ModelRequest:
        """What embeds in a cell; what could not be made is not tried again for another dataset.

        Raises:
            ClipperfError: why it cannot be made; where a process was killed while it was, it was
                tried twice, and is again where it is the `last` time.
        """
        held = self.errors.get(cell)
        if held is not None and not (last and ended_of(held) == "killed"):
            raise held
        try:
            return tried_twice(
                lambda: prepare.model_request(
                    cell,
                    unit.spec,
                    lambda text: self.tally.tell("stage", f"{unit.id}: {text}", unit.id),
                )
            )
        except ClipperfError as exc:
            self.errors[cell] = exc
            raise

    def scored(
        self, unit: Unit, data: Dataset, request_of: evaluate.Prepare
    ) -> tuple[ResultFile, list[Failure]]:
        """What came of one model on a dataset."""
        plan, limits = self.study.plan, self.study.settings.limits
        with tempfile.TemporaryDirectory(prefix="clipperf-sweep-") as scratch:
            try:
                result, failures = evaluate.evaluate(
                    (unit.spec,), {}, data, request_of, cells=unit.cells, batch=plan.eval_batch,
                    margin=plan.margin, command=self.kept.command,
                    path=Path(scratch) / "one.json",
                    on_stage=lambda text: self.tally.tell("stage", f"{text}: {data.name}", unit.id),
                    guard=lambda cell: guard_of(limits, cell.device),
                    timeout_s=self.study.settings.timeout_s,
                )  # fmt: skip
            except StorageError:
                raise
            except ClipperfError as exc:
                return self.blank(unit), [Failure(unit.id, str(exc), exc)]
        for each in failures:
            if isinstance(each.cause, StorageError):
                raise each.cause
        return result, failures


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


def _dataset_at(name: str, folder: Path) -> str | Path:
    """A dataset of a plan: what lies beside it, else as `load_dataset` takes it."""
    beside = expanded(folder / name)
    return beside if name != "sample" and kind_of(beside) != "nothing" else name
