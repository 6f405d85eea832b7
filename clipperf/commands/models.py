"""`clipperf models`: what there is."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from clipperf.commands.options import Json, print_json, print_tables
from clipperf.errors import UsageError

EXAMPLES = (
    "clipperf models",
    "clipperf models --search ViT-H --json",
    "clipperf models --search ViT-B-32 --speeds",
)


def command(
    search: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--search", help="Only architectures or tags that contain this text."),
    ] = None,
    speeds: Annotated[
        bool,
        typer.Option("--speeds", help="Their published speeds instead, on hardware of others."),
    ] = False,
    json: Json = False,
) -> None:
    """List the models: sizes and GFLOPs of each tower, weights, licences, published accuracy."""
    from clipperf.models import catalog
    from clipperf.report.models import models_json, models_table
    from clipperf.report.speeds import names_of, speed_lines, speeds_table

    found = catalog.search(search or "")
    if not found:
        raise UsageError(f"no architecture or tag contains {search!r}; clipperf models lists all")
    if speeds:
        names = [name for entry in found for name in names_of(entry)]
        table = speeds_table(names)
        if table is None:
            raise UsageError("no speeds of these models are published; clipperf models lists all")
        if json:
            print_json(speed_lines(names))
        else:
            print_tables(table)
    elif json:
        print_json(models_json(found))
    else:
        print_tables(models_table(found))
