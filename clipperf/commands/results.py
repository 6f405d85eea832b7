"""`clipperf results`: result files themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipperf.commands.options import command_line, in_a_folder, tell_lines

HELP = "Put result files of several machines together."

EXAMPLES = (
    "clipperf results merge laptop.json server.json --out both.json",
    "clipperf size both.json --images-per-s 50 --price E1=0.1 --price E2=1.2",
)


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="A B...", help="Result files of profile or eval.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Where the one file goes; must not exist yet."),
    ],
) -> None:
    """Write the rows of all files into one, each with the machine that it was measured on."""
    from clipperf.errors import UsageError
    from clipperf.report.merged import merged
    from clipperf.report.records import environments
    from clipperf.report.sizing.prices import kinds
    from clipperf.system.results import alone, named
    from clipperf.system.store import write_result
    from clipperf.system.targets import kind_of
    from clipperf.text import number_of, shown

    target = in_a_folder(out, "--out")
    if kind_of(target) != "nothing":
        raise UsageError(f"--out {shown(out)} exists: name a file that does not")
    given = named(*map(str, files))
    found = merged(given, command_line())
    with alone(target, "--out"):
        write_result(target, found)
    rows = len(found.measurements) + len(found.scores) + len(found.crossed)
    known = environments([found])
    tell_lines(
        f"{number_of(rows, 'row')} of {number_of(len(given), 'file')}, machines: {kinds(known)}",
        f"result file: {target}",
    )


COMMANDS = {
    "merge": (merge, ("clipperf results merge laptop.json server.json --out both.json",)),
}
