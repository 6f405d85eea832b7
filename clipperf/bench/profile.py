"""`clipperf profile`: prepare, measure every group, and keep each row as soon as it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from clipperf import units
from clipperf.bench import prepare
from clipperf.bench.cost import Settings
from clipperf.bench.passes import blank
from clipperf.bench.plan import BASELINE, FLOATS, Group, plan
from clipperf.bench.runner import Event, harness_overhead_s, measure_group
from clipperf.engines import contract
from clipperf.errors import ClipperfError, UsageError
from clipperf.models.family import family_of
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Measurement, ResultFile
from clipperf.nouns.variant import PixelDtype, Side
from clipperf.system import env, files, store

SHORTEST_TEXT = 2
"""Its first token and its last."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What to measure: every combination of these."""

    specs: tuple[ModelSpec, ...]
    runtimes: tuple[str, ...]
    sides: tuple[Side, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...] = ("fp32",)
    device: str | None = None
    threads: int = 1
    tokens: tuple[int, ...] | None = None
    inputs: tuple[PixelDtype, ...] = FLOATS

    @property
    def devices(self) -> dict[str, str]:
        """Where each runtime runs; raises UsageError where one cannot."""
        return prepare.choose_devices(self.runtimes, self.device)

    def groups(self) -> list[Group]:
        """The cells, grouped by what is compared with each other.

        On a GPU PyTorch is measured in the asked precision as well as in fp32: that is what
        others have to beat there.
        """
        devices = self.devices
        on_gpu = devices.get(BASELINE, "cpu") != "cpu"
        return plan(
            self.specs,
            self.runtimes,
            sides=self.sides,
            batches=self.batches,
            precisions=self.precisions,
            devices=devices,
            baseline_precisions=contract.get(BASELINE).precisions if on_gpu else (),
            threads=(self.threads,),
            tokens=self.tokens,
            inputs=prepare.choose_inputs(self.runtimes, self.inputs),
        )

    @property
    def rows(self) -> int:
        """How many rows a sweep without failures gives: a memory row a cell, a time row a turn."""
        groups = self.groups()
        cells = {cell for group in groups for cell in group.cells}
        return len(cells) + sum(len(group.cells) for group in groups)


def profile(
    sweep: Sweep,
    settings: Settings,
    *,
    command: str = "",
    path: Path | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> ResultFile:
    """Measure a sweep and write its result file, again after every row.

    Cells that fail are rows with a reason. Ctrl-C leaves the rows so far in the file.

    Raises:
        UsageError, MissingDependencyError: before anything is measured.
        StorageError: the result file cannot be written; checked before measuring.
    """
    prepare.check_runtimes(sweep.devices, sweep.precisions)
    if sweep.tokens and min(sweep.tokens) < SHORTEST_TEXT:
        raise UsageError(
            f"--tokens {min(sweep.tokens)}: a text has a first and a last token, which are "
            f"{SHORTEST_TEXT}"
        )
    for spec in sweep.specs:
        if sweep.tokens and max(sweep.tokens) > spec.context_tokens:
            raise UsageError(
                f"{spec.id} takes texts of up to {spec.context_tokens} tokens, not "
                f"{max(sweep.tokens)}: choose shorter --tokens"
            )
    groups = sweep.groups()
    environment = env.capture()
    result = ResultFile(
        schema_version=store.SCHEMA_VERSION,
        kind="profile",
        command=command,
        created_utc=files.utc_now(),
        environments=(environment,),
        specs=sweep.specs,
        path=str(path or store.new_result_path("profile")),
    )
    target = Path(result.path)
    store.write_result(target, result)
    specs = {spec.id: spec for spec in sweep.specs}
    prepared = _prepare_all(groups, specs, max(sweep.batches), on_event)
    overhead = harness_overhead_s(environment)
    result = dataclasses.replace(
        result,
        notes=(f"An engine that does nothing measures {units.seconds(overhead)} a call here.",),
    )

    def keep(event: Event) -> None:
        nonlocal result
        if event.kind == "note":
            result = dataclasses.replace(result, notes=(*result.notes, event.text))
        row = event.measurement
        if row is not None:
            if row.cell.runtime == "torch" and specs[row.cell.model_id].random_weights:
                # Drawing noise is no measure of how long reading a checkpoint takes.
                row = dataclasses.replace(row, load_s=None)
            result = dataclasses.replace(result, measurements=(*result.measurements, row))
        if event.kind != "started":
            store.write_result(target, result)
        on_event(event)

    known: dict[Cell, Measurement] = {}
    for group in groups:
        requests, sizes = [], {}
        for cell in group.cells:
            ready = prepared[cell]
            if isinstance(ready, ClipperfError):
                row = _failed(cell, specs[cell.model_id], environment, str(ready), group.id)
                keep(Event("measured", f"{cell.label}: {ready}", cell, row))
            else:
                requests.append(ready[0])
                sizes[cell] = ready[1]
        if requests:
            spec = specs[group.cells[0].model_id]
            measured = measure_group(
                requests,
                settings,
                environment,
                keep,
                group=group.id,
                text_ids=family_of(spec).text_ids(spec),
                known_memory=known,
                disk_bytes=sizes,
            )
            known.update({row.cell: row for row in measured if row.kind == "memory"})
    return result


Prepared = dict[Cell, tuple[EngineRequest, int] | ClipperfError]


def _prepare_all(
    groups: Sequence[Group],
    specs: dict[str, ModelSpec],
    largest_batch: int,
    on_event: Callable[[Event], None],
) -> Prepared:
    """Export what is missing; a cell that cannot be prepared keeps the reason."""
    prepared: Prepared = {}
    for cell in dict.fromkeys(cell for group in groups for cell in group.cells):

        def stage(text: str, cell: Cell = cell) -> None:
            on_event(Event("started", f"{cell.model_id}: {text}", cell))

        try:
            spec = specs[cell.model_id]
            prepared[cell] = prepare.engine_request(cell, spec, stage, largest_batch)
        except ClipperfError as exc:
            prepared[cell] = exc
    return prepared


def _failed(
    cell: Cell, spec: ModelSpec, environment: env.Environment, reason: str, group: str
) -> Measurement:
    row = blank(EngineRequest(cell, spec, None), "time", environment)
    return dataclasses.replace(row, status="failed", error=reason, group=group)


def failures(result: ResultFile) -> list[Measurement]:
    """The rows that did not work, one per cell."""
    bad = {row.cell: row for row in result.measurements if row.status != "ok"}
    return list(bad.values())
