"""What a sweep will take, before anything is measured: seconds and bytes, roughly.

How long a cell runs follows from its settings: so many blocks, each with a sleep, a warm-up and
some calls. How long one call takes is guessed from the arithmetic of the tower, so that long ones
may be off by several times; so there is a second sum, for where they are `SLOWER` and no median
settles. That is a guess as well, no bound.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from clipperf.bench import prepare
from clipperf.bench.cost import Settings
from clipperf.bench.sweeps.cells import Driven, Study, Unit
from clipperf.bench.sweeps.there import tower_key
from clipperf.engines import contract
from clipperf.errors import ClipperfError
from clipperf.evals.published import SETS
from clipperf.export.exporter import chosen, exporter_of
from clipperf.export.space import weight_bytes
from clipperf.models import catalog, zoo
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.serving import SERVER, Serving
from clipperf.nouns.variant import PRECISIONS, SIDES, Side, Variant
from clipperf.system import store

CPU_FLOPS_A_THREAD = 40e9
"""In float32, of what CPUs did in docs/performance.md; twice and three times as much with 16 and 8
bits."""
GPU_FLOPS = 20e12
GAIN = {16: 2.0, 8: 3.0}
POSITIONS = 50
"""Where nobody has counted a tower's arithmetic, each parameter is taken for used so often."""
START_S = 0.6
LOAD_S, LOAD_TORCH_S = 0.5, 4.0
"""Starting a worker; importing a runtime."""
EXPORT_S, EXPORT_BYTES_PER_S = 12.0, 30e6
SERVER_TESTS, OTHER_TESTS = 8, 2
SLOWER = 3.0
"""By what calls may be slower than the guess, in a bad case."""
SAMPLE_IMAGES = 1599
ROW_BYTES = 16_000


@dataclass(frozen=True)
class Estimate:
    """Seconds of each unit by its id; of all in a bad case; bytes that are still to be written.

    `unknown` are units of which nothing can be said: datasets that have to be read first.
    """

    seconds: dict[str, float]
    most_s: float
    export_s: float
    disk_bytes: int
    fetch: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def total_s(self) -> float:
        """Seconds of all that can be told, exports included."""
        return self.export_s + sum(self.seconds.values())


def estimated(study: Study, done: Collection[str] = ()) -> Estimate:
    """What a study will take; units that are `done` have no seconds."""
    seconds: dict[str, float] = {}
    most_s, unknown = 0.0, []
    remembered: set[Cell] = set()
    for unit in study.units:
        fresh = [cell for cell in unit.cells if cell not in remembered]
        remembered.update(unit.cells)
        if unit.id in done:
            continue
        if unit.dataset is not None:
            images = _images(unit.dataset)
            unknown += [] if images else [unit.id]
            seconds[unit.id] = evaluation_s(unit, images or 0)
            most_s += SLOWER * seconds[unit.id]
            continue
        assert unit.driven is not None
        seconds[unit.id], most = measured_s(unit, unit.driven, study.settings, len(fresh))
        most_s += most
    missing = list(_missing(study))
    fetch = [spec for spec in study.specs if _must_be_fetched(spec)]
    rows = sum(len(unit.cells) for unit in study.units if unit.id not in done)
    disk = sum(size for _, size in missing) + ROW_BYTES * rows
    disk += sum(4 * sum(map(spec.parameters, SIDES)) for spec in fetch)
    export_s = sum(EXPORT_S + size / EXPORT_BYTES_PER_S for _, size in missing)
    return Estimate(
        seconds, most_s + export_s, export_s, disk, tuple(s.id for s in fetch), tuple(unknown)
    )


# --- seconds -------------------------------------------------------------------------------


def run_s(cell: Cell, spec: ModelSpec) -> float:
    """Seconds of one call of an engine, guessed."""
    row = PRECISIONS.find(cell.precision)
    gain = 1.0 if row is None else GAIN.get(min(row.weights.bits, row.activations.bits), 1.0)
    rate = GPU_FLOPS if cell.device != "cpu" else CPU_FLOPS_A_THREAD * cell.threads
    share = (cell.tokens or spec.context_tokens) / spec.context_tokens
    flops = _flops(spec, cell.side) * (share if cell.side == SIDES[1] else 1.0)
    return max(1e-4, cell.batch * flops / (rate * gain))


def _flops(spec: ModelSpec, side: Side) -> float:
    try:
        entry = catalog.find(spec.architecture)
    except ClipperfError:
        return 2.0 * POSITIONS * spec.parameters(side)
    known = entry.image_gflops if side == SIDES[0] else entry.text_gflops
    return known * 1e9 if known else 2.0 * POSITIONS * spec.parameters(side)


def measured_s(unit: Unit, driven: Driven, settings: Settings, fresh: int) -> tuple[float, float]:
    """Seconds of a group, likely and in a bad case; `fresh` of its cells have no memory row yet."""
    likely = most = 0.0
    for number, cell in enumerate(unit.cells):
        call_s = run_s(cell, unit.spec)
        slow_s = SLOWER * call_s
        start_s = START_S + _load_s(cell) + call_s
        slow_start_s = 2 * (START_S + _load_s(cell)) + slow_s
        if driven.serving is not None:
            took = _served_s(driven.serving, cell, call_s)
            longest = SLOWER * took
        elif driven.files is not None:
            longest = settings.max_s * len(driven.files.ways)
            took = longest / 2
        else:
            if number < fresh:
                likely += start_s + settings.memory_runs * call_s
                most += slow_start_s + settings.memory_runs * slow_s
            took = _blocks_s(settings, call_s)
            longest = max(settings.max_s, _block_s(settings, slow_s))
        likely += start_s + took
        most += slow_start_s + max(took, longest)
    return likely, most


def _blocks_s(settings: Settings, call_s: float) -> float:
    """The blocks that a cell takes until it is settled, where it is quiet."""
    timed_s = _timed_s(settings, call_s)
    calls = max(1.0, timed_s / call_s)
    blocks = max(settings.min_blocks, settings.min_s / timed_s, settings.min_runs / calls)
    each_s = _block_s(settings, call_s)
    return max(each_s, min(math.ceil(blocks) * each_s, settings.max_s))


def _block_s(settings: Settings, call_s: float) -> float:
    """One block, of which there is at least one, however long it takes."""
    return settings.sleep_s + settings.warmup * call_s + _timed_s(settings, call_s)


def _timed_s(settings: Settings, call_s: float) -> float:
    """The timed calls of a block: one at least."""
    wanted_s = max(settings.block_calls * call_s, settings.block_s)
    return max(call_s, min(wanted_s, settings.block_max_s))


def _served_s(serving: Serving, cell: Cell, call_s: float) -> float:
    tests = SERVER_TESTS if cell.scenario == SERVER else OTHER_TESTS
    return tests * max(serving.min_s, serving.min_queries * call_s / cell.batch)


def _load_s(cell: Cell) -> float:
    return LOAD_TORCH_S if contract.get(cell.runtime).artifact is None else LOAD_S


def _images(dataset: str) -> int | None:
    """How many images a dataset has, where its name tells."""
    if dataset == "sample":
        return SAMPLE_IMAGES
    known = SETS.get(dataset.removeprefix("wds/"))
    return None if known is None else known.samples


def evaluation_s(unit: Unit, images: int) -> float:
    """Seconds of a model's evaluation in all of its cells."""
    each = (
        START_S + _load_s(cell) + images / cell.batch * run_s(cell, unit.spec)
        for cell in unit.cells
    )
    return sum(each)


# --- bytes ---------------------------------------------------------------------------------


def _missing(study: Study) -> Iterator[tuple[str, int]]:
    """The towers that have to be exported, by a name each, with their bytes."""
    there = {tower.key for _, manifest in store.find_artifacts() for tower in manifest.towers}
    met: set[tuple[str, ...]] = set()
    for unit in study.units:
        sides: Sequence[Side] = SIDES if unit.dataset is not None else [unit.cells[0].side]
        for cell in unit.cells:
            if contract.get(cell.runtime).artifact is None and unit.dataset is None:
                continue
            variant = Variant(cell.runtime, cell.precision, cell.input)
            try:
                made = chosen(prepare.loaded_by(variant), {}, strict=False)
                towers = list(_with_sources(unit.spec, sides, made))
            except ClipperfError:  # not to be made here: its rows say why, or another machine can
                continue
            for each in towers:
                for side, size in weight_bytes(unit.spec, sides, each.row).items():
                    pixels = each.pixel_dtype if side == SIDES[0] else ""
                    name = (unit.spec.id, each.runtime, each.precision, side, pixels)
                    if name in met:
                        continue
                    met.add(name)
                    if tower_key(unit.spec, side, each) not in there:
                        yield " ".join(name), size


def _with_sources(spec: ModelSpec, sides: Sequence[Side], variant: Variant) -> Iterator[Variant]:
    exporter = exporter_of(variant)
    variant = exporter.complete(spec, variant)
    yield variant
    for source, needed in exporter.needs(spec, sides, variant):
        yield from _with_sources(spec, needed, source)


def _must_be_fetched(spec: ModelSpec) -> bool:
    try:
        return zoo.weights_id(spec) is None
    except ClipperfError:
        return False
