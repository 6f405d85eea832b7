"""`clipperf store`: whether what it holds is whole, what it takes, what may go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from clipperf.commands.options import Json, Quiet, print_json, print_tables, tell_lines
from clipperf.errors import UsageError
from clipperf.system.terminal import ask, say, tell

if TYPE_CHECKING:
    from clipperf.system.housekeeping.plan import Choices, Plan
    from clipperf.system.housekeeping.references import References

HELP = (
    "Check every checksum of the store, remove what is left over or superseded, show what it takes."
)

EXAMPLES = (
    "clipperf store du",
    "clipperf store verify",
    "clipperf store gc --dry-run",
)

DAY_S = 86400.0


def verify(json: Json = False, quiet: Quiet = False) -> None:
    """Read all that the store holds and compare checksums; exit code 1 where it is damaged."""
    from clipperf.report.store import damage_lines, verified_json, verified_table
    from clipperf.system.housekeeping import verify as checks
    from clipperf.system.housekeeping.contents import entries
    from clipperf.system.progress import progress
    from clipperf.system.store import home

    found = entries()
    found += checks.elsewhere(found)
    with progress(quiet, total=len(found)) as bar:
        verified = checks.verify(found, lambda at: bar.at("reading", at, len(found)))
    if json:
        print_json(verified_json(verified, home()))
    else:
        print_tables(verified_table(verified, home()))
        if verified.damaged:
            tell_lines(*damage_lines(verified))
    raise typer.Exit(1 if verified.damaged else 0)


def gc(
    unused: Annotated[
        bool,
        typer.Option("--unused", help="Also artifacts that no tuning and no result refers to."),
    ] = False,
    measured: Annotated[
        bool,
        typer.Option(
            "--measured", help="As --unused, and artifacts that only results refer to (which stay)."
        ),
    ] = False,
    all_caches: Annotated[
        bool,
        typer.Option(
            "--all-caches",
            help="Also kept graphs and embeddings, and what runtimes compiled: all is made again "
            "where it is missing.",
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Also what is damaged by its checksum: reads everything."),
    ] = False,
    older_than: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--older-than",
            metavar="DAYS",
            help="Nothing that was written in the last DAYS; what killed processes left goes.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List it, remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove what killed processes left, what cannot be opened, and what is superseded; asks."""
    from clipperf.report.store import plan_json, plan_table, removed_json, removed_lines
    from clipperf.system.housekeeping.plan import Choices
    from clipperf.system.housekeeping.removal import remove
    from clipperf.system.progress import progress
    from clipperf.system.store import home

    if older_than is not None and not (math.isfinite(older_than) and older_than >= 0):
        raise UsageError(f"--older-than {older_than}: give a number of days from 0")
    older_than_s = None if older_than is None else older_than * DAY_S
    choices = Choices(unused, measured, all_caches, verify, older_than_s)
    found = planned(choices)
    if dry_run or not found.removals:
        if json:
            print_json(plan_json(found, home()))
        else:
            print_tables(plan_table(found, home()))
        return
    if not json:
        print_tables(plan_table(found, home()))
    if json and not yes:
        raise UsageError("--json cannot ask: add --yes, or --dry-run to list what would go")
    if not (yes or agreed(found)):
        say("nothing was removed")
        raise typer.Exit(1)
    with progress(quiet) as bar:
        bar.stage(f"removing from {home()}")
        done = remove(found, lambda: planned(choices))
    if json:
        print_json(removed_json(done, home()), tell)
    else:
        tell_lines(*removed_lines(done))
    raise typer.Exit(1 if done.failed else 0)


def du(json: Json = False) -> None:
    """Show what the store takes: by kind, and by model, runtime and precision."""
    from clipperf.report.store import usage_json, usage_tables
    from clipperf.system.housekeeping.contents import entries
    from clipperf.system.housekeeping.usage import used
    from clipperf.system.store import home

    found = used(entries())
    if json:
        print_json(usage_json(found, home()))
    else:
        print_tables(*usage_tables(found, home()))


COMMANDS = {
    "verify": (verify, ("clipperf store verify", "clipperf store verify --json")),
    "gc": (
        gc,
        (
            "clipperf store gc --dry-run",
            "clipperf store gc --yes",
            "clipperf store gc --unused --older-than 30",
            "clipperf store gc --all-caches --older-than 90 --yes",
        ),
    ),
    "du": (du, ("clipperf store du", "clipperf store du --json")),
}


def referring() -> References:
    """What refers to the store's artifacts now."""
    from clipperf.engines.contract import RUNTIMES
    from clipperf.system.housekeeping.references import references

    def artifact_of(name: str) -> str | None:
        runtime = RUNTIMES.find(name)
        return None if runtime is None else runtime.artifact

    return references(artifact_of)


def planned(choices: Choices) -> Plan:
    """What may go."""
    from clipperf.export.folder import own_files
    from clipperf.system.housekeeping.contents import entries
    from clipperf.system.housekeeping.plan import plan

    return plan(entries(), referring(), choices, own_files)


def agreed(found: Plan) -> bool:
    """Ask on standard error whether all of it may be removed.

    Raises:
        UsageError: nobody can be asked.
    """
    from clipperf import units
    from clipperf.report.store import things

    number = things(len(found.removals))
    answer = ask(f"Remove {number}, {units.size(found.freed_bytes)}? [y/N] ")
    if answer is None:
        raise UsageError(
            f"nothing was removed: {number} would go, and there is no terminal to ask on; "
            f"add --yes, or --dry-run to list them"
        )
    return answer.lower() in ("y", "yes")
