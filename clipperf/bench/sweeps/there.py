"""What of a study is on disk, as far as that shows without making or fetching anything."""

from __future__ import annotations

from pathlib import Path

from clipperf.bench import prepare
from clipperf.bench.sweeps import ledger
from clipperf.bench.sweeps.cells import Study, Unit
from clipperf.bench.sweeps.ledger import Ledger
from clipperf.engines import contract
from clipperf.errors import ClipperfError
from clipperf.export.exporter import Below, chosen, exporter_of
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment
from clipperf.nouns.variant import Side, Variant
from clipperf.system import store

Made = dict[str, list[str | None]]
"""What the cells of units are made from, by the units' ids."""


def made(study: Study) -> Made:
    """What the cells of the groups are made from, as far as this machine knows it."""
    groups = [unit for unit in study.units if unit.dataset is None]
    return {unit.id: [_made(cell, unit) for cell in unit.cells] for unit in groups}


def made_there(tell: object, study: Study) -> Made:
    """`made` on a machine that measures, where weights and artifacts are."""
    return made(study)


def done(study: Study, kept: Ledger, env: Environment, found_there: Made | None = None) -> set[str]:
    """The ids of the units that a sweep on a machine would find there, and valid.

    An evaluation's data is not read to know it: one counts that is there whole and of the machine.
    What cannot be made, or has to be fetched first, is left. `found_there` is what `made` says on
    the machine, where that is not this one.
    """
    limits, found = study.settings.limits, set()
    all_made = made(study) if found_there is None else found_there
    for unit in study.units:
        if unit.dataset is not None:
            there = kept.holds_any(unit, env)
        else:
            made_from = all_made[unit.id]
            known = [each for each in made_from if each is not None]
            there = len(known) == len(made_from) and kept.holds(
                unit, ledger.key_of(unit, known, study.settings, env), limits
            )
        if there:
            found.add(unit.id)
    return found


def _made(cell: Cell, unit: Unit) -> str | None:
    """As `ledger.made_of`; None where that does not show."""
    spec = unit.spec
    if contract.get(cell.runtime).artifact is None:
        return f"weights {prepare.weights_of(spec) or spec.pretrained}"
    try:
        variant = Variant(cell.runtime, cell.precision, cell.input)
        wanted = chosen(prepare.loaded_by(variant), {}, strict=False)
        serving = exporter_of(wanted).serving
        if serving is None:
            return tower_key(spec, cell.side, wanted)
        taken = serving(spec, [cell.side], wanted, (cell.batch, unit.largest_batch))
        if isinstance(taken, Variant):
            return tower_key(spec, cell.side, taken)
        tower = store.read_manifest(Path(taken)).tower(cell.side)
    except ClipperfError:
        return None
    return None if tower is None else tower.key


def tower_key(spec: ModelSpec, side: Side, variant: Variant) -> str | None:
    """The key that a tower has once it is made; None where that does not show."""
    weights = prepare.weights_of(spec)
    try:
        return None if weights is None else _key(spec, weights, side, variant)
    except ClipperfError:
        return None


def _key(spec: ModelSpec, weights: str, side: Side, variant: Variant) -> str:
    exporter = exporter_of(variant)
    variant = exporter.complete(spec, variant)
    sources = [source for source, _ in exporter.needs(spec, (side,), variant)][:1]
    below = [_key(spec, weights, side, source) for source in sources] or [weights]
    return exporter.key(spec, side, variant, Below(below[0]))
