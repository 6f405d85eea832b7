"""`clipperf overlap`: near-duplicates between two sets of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        if model is None:
            found = looked_at(images_of(evaluated), images_of(other))
        else:
            data = with_classes(evaluated)
            own = images_of(evaluated) if data is None else data.images
            with load(model) as opened:
                found = looked_at(own, images_of(other), opened, data)
    if json:
        print_json(found)
    else:
        print_tables(overlap_table(found))
