"""The models of a sweep on its datasets: each dataset read once, each model kept as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clipperf.bench import cost, prepare, retries
from clipperf.bench.away import new_place
from clipperf.bench.away_scores import (
    NOWHERE,
    MadeModel,
    Scored,
    Scoring,
    made_of,
    needs_gpu,
    put_dataset,
    result_of,
    score,
)
from clipperf.bench.jobs import Away, Call, Event, Machines, OnEnd
from clipperf.bench.limits import guard_of
from clipperf.bench.prepare import weights_of
from clipperf.bench.retries import ended_of, tried_twice, worst
from clipperf.bench.scoring import Scorer, is_of_all
from clipperf.bench.sweeps import ledger
from clipperf.bench.sweeps.cells import Study, Unit
from clipperf.bench.sweeps.ledger import Ledger
from clipperf.bench.sweeps.plan_file import SweepPlan
from clipperf.bench.sweeps.tally import FAILED, Tally
from clipperf.errors import ClipperfError, StorageError
from clipperf.evals import evaluate
from clipperf.evals.datasets import Dataset, check_dataset, load_dataset
from clipperf.evals.evaluate import Failure
from clipperf.evals.worker import ModelRequest
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Ended, Environment, ResultFile
from clipperf.system import files, store
from clipperf.system.targets import expanded, kind_of


def check_datasets(plan: SweepPlan) -> None:
    """Raise UsageError for a dataset of a plan that is not there, before anything is begun."""
    for name in plan.datasets:
        check_dataset(_dataset_at(name, plan.path.parent))


class Datasets:
    """The evaluations of a study on a machine."""

    def __init__(self, study: Study, kept: Ledger, machines: Machines, tally: Tally) -> None:
        self.study, self.kept, self.machines, self.tally = study, kept, machines, tally
        self.again: list[Unit] = []
        self.errors: dict[Cell, ClipperfError] = {}
        self._scorer: Scorer | None = None

    def scorer(self, machines: Away) -> Scorer:
        """What was made on other machines, or could not be, for all datasets."""
        self._scorer = self._scorer or Scorer(machines)
        return self._scorer

    @property
    def environment(self) -> Environment:
        """The machine that evaluates, as far as it is known."""
        return self.machines.environments[0]

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
        if isinstance(self.machines, Away):
            on_dataset_away(self, self.machines, data, units)
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
        weights = weights_of(unit.spec)
        made = [
            made_of(requests[cell], weights) if cell in requests else f"not made: {errors[cell]}"
            for cell in unit.cells
        ]
        if not last and self.is_there(unit, data, made):
            return
        spent_s = cost.stopwatch()

        def request_of(cell: Cell, spec: object, on_stage: object) -> ModelRequest:
            if cell in errors:
                raise errors[cell]
            return requests[cell]

        result, failures = self.scored(unit, data, request_of)
        self.tally.spend(unit, spent_s())
        ended = worst([ended_of(each.cause) for each in failures])
        self.keep(unit, self.key(unit, data, made, self.environment), result, failures, ended, last)

    def key(self, unit: Unit, data: Dataset, made: Sequence[object], env: Environment) -> str:
        """The key of a model on a dataset on a machine; `made` says what each cell is made from."""
        return files.digest_of(
            "eval", store.SCHEMA_VERSION, data.name, data.sha256, unit.cells, made,
            self.study.plan.margin, env.id,
        )  # fmt: skip

    def is_there(self, unit: Unit, data: Dataset, made: Sequence[object]) -> bool:
        """Whether a unit is there and valid, which then counts as done."""
        for env in self.machines.environments:
            key = self.key(unit, data, made, env)
            there = self.kept.find(unit, key, self.study.settings.limits)
            if there is not None:
                self.tally.count(unit, there, valid=True)
                return True
        return False

    def keep(
        self,
        unit: Unit,
        key: str,
        result: ResultFile,
        failures: Sequence[Failure],
        ended: Ended | None,
        last: bool,
    ) -> None:
        """What came of a unit goes to disk; where a process was killed, it is done once more."""
        notes = (*result.notes, *(f"{FAILED}{f.label}: {f.reason}" for f in failures))
        result = dataclasses.replace(result, notes=notes)
        result = self.kept.write(unit, key, ended, self.study.settings.limits, result)
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
            held = self.errors[cell] = retries.kept(exc)
        raise held

    def scored(
        self, unit: Unit, data: Dataset, request_of: evaluate.Prepare
    ) -> tuple[ResultFile, list[Failure]]:
        """What came of one model on a dataset."""
        plan, limits = self.study.plan, self.study.settings.limits
        try:
            result, failures = evaluate.evaluate(
                (unit.spec,), {}, data, request_of, cells=unit.cells, batch=plan.eval_batch,
                margin=plan.margin, command=self.kept.command,
                path=NOWHERE,
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


def _dataset_at(name: str, folder: Path) -> str | Path:
    """A dataset of a plan: what lies beside it, else as `load_dataset` takes it."""
    beside = expanded(folder / name)
    return beside if name != "sample" and kind_of(beside) != "nothing" else name


def told_how(model: MadeModel) -> MadeModel:
    """What could not be made, with how it is tried again."""
    return dataclasses.replace(model, error=model.error and retries.kept(model.error))


def on_dataset_away(own: Datasets, machines: Away, data: Dataset, units: Sequence[Unit]) -> None:
    """All models on one dataset, each alone on one of other machines."""
    scorer, plan, settings = own.scorer(machines), own.study.plan, own.study.settings
    crossing = new_place(machines.shared)
    crossed = put_dataset(machines.shared, data, crossing)
    notes: dict[str, list[str]] = {}
    sent: dict[str, tuple[Unit, list[object], Callable[[], float]]] = {}

    def asked(last: bool) -> Iterator[Call]:
        for unit in own.again if last else units:
            if own.tally.stopping():
                return

            def stage(text: str, name: str = unit.id) -> None:
                own.tally.tell("stage", f"{name}: {text}", name)

            found = scorer.models(unit.cells, unit.spec, False, stage, again=last)
            models = {cell: told_how(model) for cell, model in found.items()}
            made: list[object] = [
                models[cell].made or f"not made: {models[cell].error}" for cell in unit.cells
            ]
            if not last and own.is_there(unit, data, made):
                continue
            sent[unit.id] = (unit, made, cost.stopwatch())
            scoring = Scoring(
                unit.spec, unit.cells, models, plan.eval_batch, plan.margin, settings.limits,
                settings.timeout_s, command=own.kept.command,
            )  # fmt: skip
            place = crossing.inside(f"{len(sent)}")
            yield Call(unit.id, score, (scoring, crossed, place), needs_gpu(unit.cells))

    def told(event: Event) -> None:
        if event.kind == "note":
            notes.setdefault(event.group, []).append(event.text)
        own.tally.tell("note" if event.kind == "note" else "stage", event.text, event.group)

    def kept(last: bool) -> OnEnd:
        def end(call: Call, value: Scored | None, error: ClipperfError | None) -> None:
            unit, made, spent_s = sent[call.name]
            if value is not None:
                result, failures = result_of(machines.shared, value)
                ended = worst([each for *_, each in value.failures])
            else:
                assert error is not None
                if is_of_all(error):
                    raise error
                result, failures = own.blank(unit), [Failure(unit.spec.id, str(error), error)]
                ended = ended_of(error)
            own.tally.spend(unit, spent_s())
            said = (*result.notes, *notes.pop(unit.id, ()))
            key = own.key(unit, data, made, result.environments[0])
            own.keep(unit, key, dataclasses.replace(result, notes=said), failures, ended, last)

        return end

    for last in (False, True):
        machines.calls(asked(last), told, kept(last))
    own.again = []
    with contextlib.suppress(ClipperfError):
        machines.shared.remove(crossing.name())
