"""`clipperf sweep`: all that a plan asks for, whatever interrupts it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from clipperf.commands.options import (
    Quiet,
    command_line,
    print_tables,
    refuse_to_replace_data,
    tell_lines,
)
from clipperf.commands.ray_options import Ray, RayStore, check, joined
from clipperf.commands.serving_options import bounded, usual
from clipperf.commands.sweep_view import (
    Waits,
    planned_lines,
    planned_tables,
    print_line,
    shown,
    unsupported_lines,
)
from clipperf.system.terminal import say
from clipperf.text import number_of
from clipperf.text import shown as shown_path

if TYPE_CHECKING:
    from clipperf.bench.jobs import Away, Launcher
    from clipperf.bench.sweeps.cells import Driven, Study
    from clipperf.bench.sweeps.estimate import Estimate
    from clipperf.bench.sweeps.ledger import Ledger
    from clipperf.bench.sweeps.plan_file import SweepPlan
    from clipperf.bench.sweeps.tally import Outcome

EXAMPLES = (
    "clipperf sweep overnight.toml --dry-run",
    "clipperf sweep overnight.toml",
    "clipperf sweep overnight.toml --out results --json-lines",
    "clipperf sweep overnight.toml --ray --ray-store s3://bucket/clipperf",
)

STOPS = "finishing what is being measured, then the report; Ctrl-C again stops now"
REPORT = "report.html"
MOST_FAILURES = 20
CROSSING = ".ray"
"""Where artifacts and rows cross between machines, in the folder of results; see --ray-store."""


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="What to measure.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--out",
            help="The folder for results; default: beside the plan, PLAN.sweep.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what there is to do, what cannot be, and roughly "
            "the time and disk that it takes.",
        ),
    ] = False,
    json_lines: Annotated[
        bool,
        typer.Option("--json-lines", help="A JSON object a line on standard output, as it goes."),
    ] = False,
    ray: Ray = None,
    ray_store: RayStore = None,
    launcher: Annotated[str, typer.Option("--launcher", hidden=True)] = "local",
    quiet: Quiet = False,
) -> None:
    """Measure and evaluate all that a plan asks for; the same command goes on after any end."""
    from clipperf.bench.sweeps.estimate import estimated
    from clipperf.bench.sweeps.ledger import Ledger
    from clipperf.bench.sweeps.plan_file import read_plan
    from clipperf.bench.sweeps.run import sweep
    from clipperf.bench.sweeps.scored import check_datasets
    from clipperf.system.stopping import Stopping
    from clipperf.system.targets import expanded

    path = expanded(plan)
    asked = read_plan(path)
    check_datasets(asked)
    folder = expanded(out) if out is not None else path.with_suffix(".sweep")
    kept = Ledger(folder, command_line())
    kept.check()
    check(ray, ray_store, asked.device)
    with contextlib.ExitStack() as stack:
        if ray is not None and not dry_run:  # before machines that another one may work on
            _hold(folder, stack)
        crossing = ray_store or str(folder / CROSSING)
        waits = Waits(quiet, json_lines)
        placed = _placed(asked, launcher, ray, crossing, not dry_run, waits, folder)
        where, study, away = stack.enter_context(placed)
        expected = estimated(study)
        if dry_run:
            _show_plan(study, expected, kept, json_lines, away)
            return
        if json_lines:
            _print_unsupported(study)
        elif not quiet:
            for line in (*unsupported_lines(study), *planned_lines(study, expected)):
                say(line)
        if ray is None:
            _hold(folder, stack)
        stop = stack.enter_context(Stopping(STOPS))
        kept.begin(asked.text)
        refuse_to_replace_data(folder / REPORT)
        with shown(quiet, json_lines) as view:
            waits.view = view
            outcome = sweep(
                study,
                kept,
                expected.seconds,
                launcher=where,
                tell=view,
                stopping=lambda: stop.asked,
            )
        report = write_report(outcome, folder)
        _show_end(outcome, report, json_lines)
        if outcome.left and stop.asked:
            stop.pass_on()
    raise typer.Exit(1 if outcome.failures or outcome.left else 0)


def _hold(folder: Path, stack: contextlib.ExitStack) -> None:
    """Be the only command that writes a folder, which goes again where nothing came of it.

    Raises:
        StorageError: another command is writing it.
    """
    from clipperf.bench.sweeps.ledger import MARK
    from clipperf.system import results
    from clipperf.system.housekeeping.in_use import using

    def empty() -> None:
        with contextlib.suppress(OSError):
            folder.rmdir()

    if not folder.exists():
        stack.callback(empty)
    stack.enter_context(using())
    stack.enter_context(results.alone(folder / MARK, "--out"))


@contextlib.contextmanager
def _placed(
    plan: SweepPlan,
    launcher: str,
    ray: str | None,
    store: str,
    look: bool,
    waits: Waits,
    folder: Path,
) -> Iterator[tuple[Launcher, Study, Away | None]]:
    """Where a plan is followed, what it comes to there, and the machines if not this one.

    With `look` the machines must see `store`, into which something is written for that. Results lie
    in `folder`.
    """
    from clipperf.bench.jobs import LAUNCHERS, Call, Launcher

    if ray is None:
        where = LAUNCHERS.get(launcher)
        yield where, study_of(plan, where.here), None
        return
    kept = f"the groups that are finished are in {shown_path(folder)}"
    with joined(ray, store, waits, kept, look) as machines:
        study = machines.call(Call("the plan", study_there, (plan,)))
        where = Launcher("ray", lambda: contextlib.nullcontext(machines), here=False)
        yield where, study, machines


def study_there(tell: object, plan: SweepPlan) -> Study:
    """`study_of` on a machine that measures."""
    return study_of(plan, here=True)


def study_of(plan: SweepPlan, here: bool) -> Study:
    """A plan with its models, scenarios and settings, and the cells that they come to.

    `here` is whether this machine is the one that measures, which then must have the runtimes.

    Raises:
        UsageError: an unknown model, runtime, precision or file.
        MissingDependencyError: a scenario takes a package that is not installed.
    """
    from clipperf.bench import cost
    from clipperf.bench.sweeps.cells import Study, planned
    from clipperf.models import zoo
    from clipperf.system import gpus
    from clipperf.system.env import available_cores

    plan = replace(plan, device=gpus.pin(plan.device))
    settings = cost.PRESETS["quick" if plan.quick else "default"]
    study = Study(
        plan=plan,
        specs=tuple(dict.fromkeys(zoo.resolve(_beside(name, plan)) for name in plan.models)),
        driven=tuple(_driven(plan, scenario) for scenario in plan.scenarios),
        settings=replace(settings, timeout_s=plan.timeout_s, limits=plan.limits),
        threads=plan.threads or (available_cores(),),
    )
    return planned(study, here)


def _beside(name: str, plan: SweepPlan) -> str:
    """A model's name; a path that begins with ./ or ../ is seen from the plan."""
    return str(plan.path.parent / name) if name.startswith(("./", "../")) else name


def _driven(plan: SweepPlan, scenario: str) -> Driven:
    """One scenario with its batches and how inputs come."""
    from clipperf.bench.file_work import file_work
    from clipperf.bench.sweeps.cells import Driven
    from clipperf.bench.sweeps.plan_file import CLOSED
    from clipperf.nouns.cell import CLOSED_LOOP
    from clipperf.nouns.from_files import FROM_FILES
    from clipperf.nouns.serving import SERVER, SERVING, SINGLE_STREAM

    if scenario == FROM_FILES:
        folder = str(plan.path.parent / (plan.files or ""))
        given = (folder, plan.preprocess, plan.preprocess_threads)
        where = f"{plan.path}: [from-files]"
        work = file_work(*given, where, "preprocess", batch=max(plan.batches))
        return Driven(FROM_FILES, plan.batches, files=work)
    if scenario not in SERVING:
        return Driven(CLOSED_LOOP if scenario == CLOSED else scenario, plan.batches)
    from clipperf.bench import loadgen

    loadgen.check()
    serving = usual(scenario, plan.quick)
    if scenario == SERVER:
        assert plan.slo_ms is not None, "the plan was checked"
        serving = bounded(serving, plan.slo_ms, plan.max_delay_ms)
        return Driven(scenario, plan.max_batches, serving)
    return Driven(scenario, (1,) if scenario == SINGLE_STREAM else plan.batches, serving)


def _show_plan(
    study: Study, expected: Estimate, kept: Ledger, json_lines: bool, away: Away | None
) -> None:
    """What --dry-run prints: of what is there it says so, and expects the rest."""
    from clipperf.bench.jobs import Call
    from clipperf.bench.sweeps.estimate import estimated
    from clipperf.bench.sweeps.there import done, made_there
    from clipperf.system import env

    if away is None:
        there = done(study, kept, env.capture())
    else:
        made = away.call(Call("what there is", made_there, (study,)))
        there = done(study, kept, away.environments[0], made)
    if there:
        expected = estimated(study, there)
    if not json_lines:
        print_tables(*planned_tables(study, expected, kept, there))
        tell_lines(*unsupported_lines(study))
        return
    for unit in study.units:
        for cell in unit.cells:
            print_line({"event": "cell", "unit": unit.id, "dataset": unit.dataset, "cell": cell,
                        "there": unit.id in there,
                        "unit_s": expected.seconds.get(unit.id, 0.0)})  # fmt: skip
    _print_unsupported(study)
    cells = sum(len(unit.cells) for unit in study.units)
    valid = sum(len(unit.cells) for unit in study.units if unit.id in there)
    print_line({"event": "plan", "cells": cells, "valid": valid, "left": cells - valid,
                "units": len(study.units), "seconds": expected.total_s,
                "most_s": expected.most_s, "disk_bytes": expected.disk_bytes,
                "fetch": expected.fetch, "unknown": expected.unknown})  # fmt: skip


def _print_unsupported(study: Study) -> None:
    for each in study.unsupported:
        print_line({"event": "unsupported", **vars(each)})


def write_report(outcome: Outcome, folder: Path) -> Path | None:
    """Write the report of all that is there; None where nothing is."""
    from clipperf.models.published import basic_statistics
    from clipperf.report.build import build_report
    from clipperf.report.format import render
    from clipperf.system.files import write_text

    if not any(r.measurements or r.scores for r in outcome.files):
        return None
    document = build_report(outcome.files, basic_statistics(), title="Sweep")
    write_text(folder / REPORT, render(document, "html"))
    return folder / REPORT


def _show_end(outcome: Outcome, report: Path | None, json_lines: bool) -> None:
    counts = {
        "cells": outcome.total,
        "measured": outcome.measured,
        "valid": outcome.valid,
        "left": outcome.left,
        "failed": outcome.failed,
    }
    if json_lines:
        print_line({"event": "end", **counts, "report": report})
        return
    for label, reason in list(outcome.failures.items())[:MOST_FAILURES]:
        say(f"failed: {label}: {reason}")
    tell_lines(
        f"{number_of(outcome.total, 'cell')}: {outcome.measured} measured, "
        f"{outcome.valid} there already, {outcome.left} left; {outcome.failed} failed",
        *([f"report: {report}"] if report else []),
    )
