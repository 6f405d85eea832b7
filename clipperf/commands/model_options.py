"""How commands that take models are told which: names, weights, sizes."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

Pretrained = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation at run time
    typer.Option(
        "--pretrained",
        metavar="TAG|FILE|random[:SEED]",
        help="Weights: an open_clip tag, a checkpoint file or its folder, or seeded random ones.",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        help="Architecture, ARCHITECTURE::TAG, the sample, a folder with open_clip_config.json, "
        "or a JSON file of an architecture of your own.",
    ),
]
ImageSize = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--image-size", help="Pixels of an image's sides; default: the architecture's."),
]
ContextLength = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--context-length", help="Tokens of a text; default: the architecture's."),
]
Models = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        metavar="[MODEL]...",
        help="Architectures, ARCHITECTURE::TAG, or paths as for clipperf export; none: every "
        "exported model, else the sample.",
    ),
]
