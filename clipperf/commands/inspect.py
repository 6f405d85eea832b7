"""`clipperf inspect`: what a file or folder is, and whether it runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipperf.commands.options import Json, print_json, print_tables

EXAMPLES = (
    "clipperf inspect model.plan",
    "clipperf inspect ./sample-clip --json",
)


def command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PLAN|ONNX|ARTIFACT", help="A file, an artifact folder or a layout."
        ),
    ],
    json: Json = False,
) -> None:
    """Say what a plan, an ONNX file or a folder is, if it is whole, and if it runs here."""
    from clipperf.inspect.artifact import inspect
    from clipperf.report.inspection import inspection_table
    from clipperf.system.targets import expanded

    found = inspect(expanded(path))
    if json:
        print_json({**vars(found), "runs_here": found.runs_here})
    else:
        print_tables(inspection_table(found))
    raise typer.Exit(1 if found.problems else 0)
