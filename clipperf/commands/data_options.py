"""Options that say which data is read, and what its scores are held against."""

from __future__ import annotations

from typing import Annotated

import typer

Split = Annotated[
    str | None,
    typer.Option("--split", help="The part of a dataset that has several, by default test."),
]
Language = Annotated[
    str | None,
    typer.Option(
        "--language", help="Of captions or class names that are there in several, by default en."
    ),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable/--strict",
        help="Leave out images that cannot be read (for every runtime alike), count and name them; "
        "or fail at the first.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="published|FILE.csv",
        help="Beside the figures of published tables, or of one of your own, with the columns "
        "model and pretrained (as open_clip calls them, such as ViT-B-32 and openai), dataset, "
        "metric (as here, such as 'zeroshot top-1', or acc1) and value (a share of one): which "
        "are further apart than sampling and the spread between published runs explain.",
    ),
]
