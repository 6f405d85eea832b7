"""Which groups of cells a plan comes to on this machine, and which of them cannot be, and why.

Nothing is exported, fetched or measured to know it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clipperf.bench import plan as grouping
from clipperf.bench import prepare
from clipperf.bench.cost import Settings
from clipperf.bench.plan import Group
from clipperf.bench.sweeps.plan_file import SweepPlan
from clipperf.engines import contract
from clipperf.engines.processor import check_cell
from clipperf.errors import ClipperfError, UsageError
from clipperf.evals.evaluate import cells_of
from clipperf.export.exporter import chosen, exporter_of
from clipperf.nouns.cell import Cell
from clipperf.nouns.from_files import FileWork
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.serving import Serving
from clipperf.nouns.variant import BASELINE_RUNTIME, SIDES, PixelDtype, Side, Variant
from clipperf.system.env import available_cores
from clipperf.text import number_of


@dataclass(frozen=True)
class Driven:
    """One scenario of a plan: its name in results, the batches, how inputs come."""

    scenario: str
    batches: tuple[int, ...]
    serving: Serving | None = None
    files: FileWork | None = None


@dataclass(frozen=True)
class Unit:
    """What is done or not done as a whole: a group that takes turns, or a model on a dataset.

    `id` is a name that no other unit of the plan has. `largest_batch` is that of its scenario.
    """

    id: str
    spec: ModelSpec
    cells: tuple[Cell, ...]
    driven: Driven | None = None
    dataset: str | None = None

    @property
    def largest_batch(self) -> int:
        """The largest batch of its scenario."""
        return max(self.driven.batches) if self.driven else self.cells[0].batch


@dataclass(frozen=True)
class Unsupported:
    """A cell that cannot be, and why; `dataset` is what it would have been evaluated on."""

    cell: Cell
    reason: str
    dataset: str | None = None


@dataclass(frozen=True)
class Study:
    """A plan with its models and scenarios as this machine knows them."""

    plan: SweepPlan
    specs: tuple[ModelSpec, ...]
    driven: tuple[Driven, ...]
    settings: Settings
    threads: tuple[int, ...]
    units: tuple[Unit, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()


def planned(study: Study, here: bool = True) -> Study:
    """A study with its units, measured ones first, and what cannot be.

    `here` is whether this machine is the one that measures, which then must have the runtimes.

    Raises:
        UsageError: an unknown runtime or precision, inputs that none of the runtimes takes, a rule
            with a value that fits nothing, or nothing is left.
    """
    plan = study.plan
    prepare.check_precisions(plan.runtimes, plan.precisions)
    if here:
        devices, without = places(plan.runtimes, plan.device)
    else:
        devices, without = prepare.choose_devices(plan.runtimes, plan.device), {}
    found = _Found(plan, without, available_cores() if here else None)
    units = _without_lone_baselines(list(_measured(study, devices, found)))
    units += _evaluated(study, devices, found)
    plan.check_rules(found.met, {d for name in plan.runtimes for d in contract.get(name).devices})
    if not units:
        reasons = [each.reason for each in found.unsupported.values()]
        ruled_out = f"its rules leave none of {number_of(len(found.met), 'cell')}"
        why = f": {reasons[0] if reasons else ruled_out}" if reasons or found.met else ""
        raise UsageError(f"{plan.path}: nothing is left to measure{why}")
    return dataclasses.replace(
        study, units=tuple(units), unsupported=tuple(found.unsupported.values())
    )


def places(
    runtimes: Sequence[str], device: str | None
) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Where each runtime runs, as `prepare.choose_devices` of those that can run here.

    For those that cannot, where they would and why not.
    """
    usable: dict[str, list[str]] = {}
    without: dict[str, tuple[str, str]] = {}
    for name in runtimes:
        known = contract.get(name).devices
        if device is not None and device not in known:
            said = f"runtime {name} runs on {', '.join(known)}, not on {device!r}"
            without[name] = (device, said)
            continue
        asked = known if device is None else (device,)
        answers = {place: contract.get(name).availability(place) for place in asked}
        usable[name] = [place for place, answer in answers.items() if answer.usable]
        if not usable[name]:
            place, answer = next(iter(answers.items()))
            fix = f". To use it: {answer.fix}" if answer.fix else ""
            without[name] = (place, f"runtime {name} on {place}: {answer.detail}{fix}")
            del usable[name]
    return prepare.together(usable), without


class _Found:
    """What cannot be, as it is met: each cell once."""

    def __init__(
        self, plan: SweepPlan, without: Mapping[str, tuple[str, str]], cores: int | None
    ) -> None:
        self._plan, self._without, self._cores = plan, without, cores
        self._reasons: dict[tuple[str, ...], str | None] = {}
        self.unsupported: dict[tuple[Cell, str | None], Unsupported] = {}
        self.met: list[tuple[Cell, str | None]] = []

    @property
    def devices(self) -> dict[str, str]:
        """Where the runtimes would run that cannot."""
        return {name: place for name, (place, _) in self._without.items()}

    def good(self, cells: Sequence[Cell], spec: ModelSpec, dataset: str | None) -> list[Cell]:
        """Those of the cells that the plan's rules leave in, and that can be."""
        kept = []
        for cell in cells:
            self.met.append((cell, dataset))
            if not self._plan.keeps(cell, dataset):
                continue
            reason = self._reason(cell, spec)
            if reason is None:
                kept.append(cell)
            else:
                self.note(cell, reason, dataset)
        return kept

    def note(self, cell: Cell, reason: str, dataset: str | None = None) -> None:
        """Keep a cell that cannot be."""
        self.unsupported.setdefault((cell, dataset), Unsupported(cell, reason, dataset))

    def _reason(self, cell: Cell, spec: ModelSpec) -> str | None:
        if cell.runtime in self._without:
            return self._without[cell.runtime][1]
        if self._cores is not None and cell.threads > self._cores:
            return f"{cell.threads} threads, and this machine has {number_of(self._cores, 'core')}"
        key = (spec.id, cell.side, cell.runtime, cell.precision, cell.device, cell.input)
        if key not in self._reasons:
            self._reasons[key] = _against(cell, spec)
        return self._reasons[key]


def _against(cell: Cell, spec: ModelSpec) -> str | None:
    """Why a cell cannot be here, as far as that shows without making anything."""
    runtime = contract.get(cell.runtime)
    if cell.precision not in runtime.precisions:
        return f"no {cell.precision} in {runtime.name}, which has {', '.join(runtime.precisions)}"
    try:
        if runtime.artifact is None:
            check_cell(cell)
        else:
            variant = Variant(cell.runtime, cell.precision, cell.input)
            wanted = chosen(prepare.loaded_by(variant), {}, strict=False)
            exporter_of(wanted).complete(spec, wanted)
    except ClipperfError as exc:
        return str(exc)
    return None


def _measured(study: Study, devices: Mapping[str, str], found: _Found) -> Iterator[Unit]:
    """Models outermost, batches innermost, as `plan` has it."""
    for spec in study.specs:
        for driven in study.driven:
            tokens = _tokens(study, spec, driven, {**found.devices, **devices}, found)
            # Those that cannot run are asked for their cells alone.
            for places_of in (devices, found.devices):
                for group in _groups(study, spec, driven, places_of, tokens):
                    cells = found.good(group.cells, spec, None)
                    if cells:
                        yield Unit(f"{group.id}/{driven.scenario}", spec, tuple(cells), driven)


def _groups(
    study: Study,
    spec: ModelSpec,
    driven: Driven,
    devices: Mapping[str, str],
    tokens: tuple[int, ...] | None,
) -> list[Group]:
    plan = study.plan
    sides = [side for side in plan.towers if _reads(driven, side)]
    if tokens == ():
        sides = [side for side in sides if side != SIDES[1]]
    if not devices:
        return []
    return grouping.plan(
        [spec],
        tuple(devices),
        sides=sides,
        batches=driven.batches,
        precisions=plan.precisions,
        devices=devices,
        baseline_precisions=_baselines(plan, devices),
        threads=study.threads,
        tokens=tokens or None,
        inputs=_inputs(plan),
        scenario=driven.scenario,
    )


def _reads(driven: Driven, side: Side) -> bool:
    return driven.files is None or side == SIDES[0]


def _tokens(
    study: Study, spec: ModelSpec, driven: Driven, devices: Mapping[str, str], found: _Found
) -> tuple[int, ...] | None:
    """The lengths of texts that a model takes; None: its own."""
    plan = study.plan
    if plan.tokens is None or SIDES[1] not in plan.towers or driven.files is not None:
        return None
    for length in plan.tokens:
        if length > spec.context_tokens:
            said = f"{spec.id} takes texts of up to {spec.context_tokens} tokens, not {length}"
            name = plan.runtimes[0]
            cell = Cell(
                spec.id, SIDES[1], name, plan.precisions[0], devices[name], driven.batches[0],
                study.threads[0], tokens=length, scenario=driven.scenario,
            )  # fmt: skip
            found.met.append((cell, None))
            if plan.keeps(cell):
                found.note(cell, said)
    return tuple(length for length in plan.tokens if length <= spec.context_tokens)


def _baselines(plan: SweepPlan, devices: Mapping[str, str]) -> tuple[str, ...]:
    """The precisions in which PyTorch is measured beside fp32: it is what others have to beat."""
    if BASELINE_RUNTIME not in plan.runtimes or BASELINE_RUNTIME not in devices:
        return ()
    return prepare.baseline_precisions(devices[BASELINE_RUNTIME], plan.precisions)


def _inputs(plan: SweepPlan) -> dict[str, Sequence[PixelDtype]]:
    return prepare.choose_inputs(plan.runtimes, plan.inputs, f'{plan.path}: inputs = "uint8"')


def _without_lone_baselines(units: Sequence[Unit]) -> list[Unit]:
    """Without groups of which only cells are left that take turns elsewhere."""
    kept: set[str] = set()
    held: dict[Cell, list[set[Cell]]] = {}
    for unit in sorted(units, key=lambda unit: -len(unit.cells)):
        own = set(unit.cells)
        if not any(own <= other for other in held.get(unit.cells[0], [])):
            kept.add(unit.id)
            for cell in unit.cells:
                held.setdefault(cell, []).append(own)
    return [unit for unit in units if unit.id in kept]


def _evaluated(study: Study, devices: Mapping[str, str], found: _Found) -> list[Unit]:
    """Datasets outermost: each is read once."""
    plan, units = study.plan, []
    known = {**devices, **found.devices}
    if plan.datasets and BASELINE_RUNTIME not in known:
        known |= places([BASELINE_RUNTIME], plan.device)[0]
    for dataset in plan.datasets:
        for spec in study.specs:
            every = cells_of(
                spec, known, plan.precisions, _baselines(plan, known),
                _inputs(plan), study.threads[0], plan.eval_batch,
            )  # fmt: skip
            cells = found.good(every, spec, dataset)
            if cells:
                units.append(Unit(f"{spec.id}/{dataset}", spec, tuple(cells), dataset=dataset))
    return units
