"""The scenario "from-files": image files to vectors, as a model that is served embeds them.

Cells of a group, each in a process of its own, take turns way by way, as in "closed-loop". A turn
is some batches of files: threads decode and resize the next one while the engine runs the one
before. What decoding and resizing cost one thread alone is measured first, once a cell.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from clipperf import stats, units
from clipperf.bench import cost
from clipperf.bench.cost import Settings
from clipperf.bench.jobs import Event, Job, OnEvent, Scenario, row_a_cell
from clipperf.bench.passes import Turn, noted, worker_of
from clipperf.errors import UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models.family import family_of
from clipperf.nouns.from_files import FROM_FILES, FileRun, FileWork, Way
from clipperf.nouns.model import TextIds
from clipperf.nouns.result import Environment, Measurement
from clipperf.serialize import to_json
from clipperf.text import one_line


@dataclass
class Fed(Turn):
    """One cell while it is measured."""

    runs: dict[Way, FileRun] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether the medians of all ways have settled."""
        return all(run.stable for run in self.runs.values())


def measure(job: Job, env: Environment, earlier: Sequence[Measurement], on_event: OnEvent) -> None:
    """Measure image towers fed from files: a row a cell, with a run for each way.

    Raises:
        UsageError: no files were given, or the cells are of text towers.
    """
    work = job.files
    if work is None or not work.paths or not work.ways:
        raise UsageError("the scenario from-files reads images: give --from-files FOLDER")
    if any(cell.request.cell.side != "image" for cell in job.cells):
        raise UsageError("the scenario from-files is for image towers: give --tower image")
    turns = [Fed(cell.request, job.row(cell, "files", env)) for cell in job.cells]
    spec = family_of(turns[0].request.spec).pixels(turns[0].request.spec)
    name, (width, height) = turns[0].request.cell.label, work.middle_px
    on_event(Event("started", f"{name}: {len(work.paths)} files, {len(turns)} in turns"))
    on_event(Event("fact", f"{len(work.paths)} image files, the middle one {width}x{height}."))
    for note in work.notes:
        on_event(Event("fact", note))
    with contextlib.ExitStack() as held:
        for turn in turns:
            with noted(turn):
                worker = worker_of(turn.request, job.settings, alone=len(turns) == 1)
                turn.worker = held.enter_context(worker)
                _begin(turn, work, spec, job.text_ids)
        _take_turns(turns, work, spec, job.settings)
    for turn in turns:
        row = dataclasses.replace(turn.row, file_runs=tuple(turn.runs.values()))
        on_event(Event("measured", describe(row), row))


def _begin(turn: Fed, work: FileWork, spec: PreprocessSpec, text_ids: TextIds) -> None:
    """Open the engine, run it once, and measure what pixels cost alone."""
    assert turn.worker is not None
    turn.worker.greet()
    opened = turn.ask("open", request=turn.request, text_ids=text_ids)
    turn.ask("first")
    turn.row = dataclasses.replace(turn.row, load_s=opened["load_s"], provider=opened["provider"])
    alone = {
        method: turn.ask("pixels", paths=work.paths, spec=_by(spec, method))
        for method in dict.fromkeys(way.method for way in work.ways)
    }
    turn.runs = {way: FileRun(way, **alone[way.method]) for way in work.ways}


def _take_turns(
    turns: Sequence[Fed], work: FileWork, spec: PreprocessSpec, settings: Settings
) -> None:
    """Round after round, each cell and way once, until all medians have settled or time is up."""
    over = cost.deadline(settings.max_s * len(turns) * len(work.ways))
    number = 0
    while live := [turn for turn in turns if turn.row.status == "ok"]:
        if all(turn.settled for turn in live) or over():
            return
        first = number % len(live)
        for turn in live[first:] + live[:first]:
            with noted(turn):
                for way in work.ways:
                    _one(turn, way, work, spec, number, settings)
        number += 1


def _one(
    turn: Fed, way: Way, work: FileWork, spec: PreprocessSpec, number: int, settings: Settings
) -> None:
    samples = turn.ask(
        "feed", paths=work.paths, spec=_by(spec, way.method), threads=way.threads,
        calls=settings.block_calls,
    )["samples"]  # fmt: skip
    run = turn.runs[way]
    run = dataclasses.replace(
        run,
        wait_s=(*run.wait_s, *(wait_s for wait_s, _ in samples)),
        engine_s=(*run.engine_s, *(engine_s for _, engine_s in samples)),
        blocks=(*run.blocks, *([number] * len(samples))),
    )
    stable = cost.is_stable(run.batch_s, len(set(run.blocks)), settings)
    turn.runs[way] = dataclasses.replace(run, stable=stable)


def _by(spec: PreprocessSpec, method: str) -> object:
    return to_json(dataclasses.replace(spec, method=method))


def describe(row: Measurement) -> str:
    """One line about a finished row: its fastest way."""
    head = f"{row.cell.label}: files"
    if row.status != "ok":
        return f"{head} {row.status}: {one_line(row.error or '')}"
    rates = {
        run.way: row.cell.batch / stats.median(run.batch_s) for run in row.file_runs if run.engine_s
    }
    if not rates:
        return f"{head}: no time left for a batch"
    best = max(rates, key=lambda way: rates[way])
    return f"{head} {units.rate(rates[best])} images/s, {best.method}, {best.threads} threads"


SCENARIO = Scenario(FROM_FILES, measure, row_a_cell, "files")
