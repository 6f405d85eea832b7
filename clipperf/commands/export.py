"""`clipperf export`: towers to artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from clipperf.commands._options import (
    Json,
    Pretrained,
    Quiet,
    TowerChoice,
    print_json,
    sides,
)

EXAMPLES = (
    "clipperf export clipperf-sample",
    "clipperf export ViT-B-32 --pretrained laion2b_s34b_b79k --precision fp16",
    "clipperf export ViT-H-14 --pretrained weights.safetensors --out ./vit-h-14",
    "clipperf export ViT-L-14 --pretrained random --tower image",
)


def command(
    model: Annotated[str, typer.Argument(help="Architecture, ARCHITECTURE::TAG or the sample.")],
    pretrained: Pretrained = None,
    tower: TowerChoice = "both",
    precision: Annotated[str, typer.Option("--precision", help="fp32 or fp16.")] = "fp32",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Artifact folder; default: in the store."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Make the graph give unit vectors.")
    ] = False,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep a tower that fails the parity gate.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a model's towers to ONNX, check them against PyTorch, leave a deployable folder."""
    from clipperf.export.build import export_model
    from clipperf.export.summary import failed, lines
    from clipperf.models import zoo
    from clipperf.progress import progress

    spec = zoo.resolve(model, pretrained)
    with progress(quiet) as bar:
        exported = export_model(
            spec,
            sides(tower),
            precision,
            normalized=normalize,
            out=out,
            keep_failed=keep_failed,
            on_stage=bar.stage,
        )
    if json:
        print_json({"up_to_date": exported.up_to_date, **vars(exported)})
    else:
        print("\n".join(lines(exported)))
    raise typer.Exit(1 if failed(exported) else 0)
