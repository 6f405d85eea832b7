"""`clipperf overlap`: near-duplicates between two sets of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from clipperf.commands.data_options import SkipUnreadable
from clipperf.commands.options import Json, Quiet, print_json, print_tables

EXAMPLES = (
    "clipperf overlap ./test-photos ./training-photos",
    "clipperf overlap ./test-photos ./training-photos --model ./ViT-B-32",
)


def command(
    evaluated: Annotated[
        str, typer.Argument(metavar="EVALUATED", help="The dataset that is evaluated.")
    ],
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="Images that a model may have seen.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="An artifact folder: its embeddings help to find copies, and its zero-shot top-1 "
            "is told of all, overlapping and clean images.",
        ),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find near-duplicates between image folders, and what they do to the accuracy."""
    from clipperf.evals.overlap import Looked, images_of, looked_at, with_classes
    from clipperf.report.overlap import overlap_table
    from clipperf.serve.load import load
    from clipperf.system.progress import progress

    with progress(quiet, total=1) as bar:
        bar.stage("looking for near-duplicates")
        found: Looked
        data = None if model is None else with_classes(evaluated, skip_unreadable)
        if data is None:
            own, notes = images_of(evaluated, skip_unreadable)
        else:
            own, notes = [*data.images], [*data.notes]
        others, more = images_of(other, skip_unreadable)
        if model is None:
            found = looked_at(own, others)
        else:
            with load(model) as opened:
                found = looked_at(own, others, opened, data)
        found = dataclasses.replace(found, notes=(*notes, *more))
    if json:
        print_json(found)
    else:
        print_tables(overlap_table(found))
