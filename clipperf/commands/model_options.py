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
KINDS = (
    "ARCHITECTURE or ARCHITECTURE::TAG of open_clip's; [hf-hub:]ORG/NAME of the hub; "
    "M-CLIP/NAME; a folder with open_clip_config.json (as such or as local-dir:FOLDER), of "
    "transformers' save_pretrained or of M-CLIP's; a JSON file of an architecture; "
    "clipperf-sample"
)
"""As `docs/models.md` lists them."""

Model = Annotated[str, typer.Argument(help=f"{KINDS}.")]
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
        help=f"{KINDS}; none: every exported model, else the sample.",
    ),
]
