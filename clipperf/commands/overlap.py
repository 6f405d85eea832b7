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
        str,
        typer.Argument(
            metavar="EVALUATED", help="A dataset as for eval, of which its test counts."
        ),
    ],
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="All images that a model may have seen.")
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
    """Find near-duplicates between image folders, and what they do to the accuracy.

    Of EVALUATED the images count that eval would evaluate, all of them where there are no classes,
    captions or test split; of OTHER all.
    """
    from clipperf.evals.overlap import Looked, evaluated_images, images_of, looked_at
    from clipperf.report.overlap import overlap_table
    from clipperf.serve.load import load
    from clipperf.system.progress import progress

    with progress(quiet, total=1) as bar:
        bar.stage("looking for near-duplicates")
        found: Looked
        own, data, notes = evaluated_images(evaluated, skip_unreadable)
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
