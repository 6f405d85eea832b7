"""`clipperf tune`: the best settings for this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Optional

import typer

from clipperf.commands.model_options import ContextLength, ImageSize, Model, Pretrained
from clipperf.commands.options import (
    Device,
    Json,
    Quiet,
    TowerChoice,
    command_line,
    folder_to_deploy,
    names,
    numbers,
    print_json,
    print_tables,
    refuse_to_replace_data,
    sides,
    tell_lines,
)
from clipperf.errors import UsageError
from clipperf.system.terminal import tell

EXAMPLES = (
    "clipperf tune clipperf-sample",
    "clipperf tune ViT-B-32 --pretrained laion2b_s34b_b79k --max-batch-ms 50 --minutes 20",
    "clipperf tune ViT-B-32 --tower image --batch 1 --out vit-b-32.json",
    "clipperf tune ViT-B-32 --bundle ./deploy",
)


def command(
    model: Model,
    pretrained: Pretrained = None,
    image_size: ImageSize = None,
    context_length: ContextLength = None,
    tower: TowerChoice = "both",
    runtime: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--runtime", help="Runtimes to try, with commas; default: all that work."),
    ] = None,
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--precision", help="Precisions to try; default: those that gain there."),
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes to try.")] = "1,8,32",
    threads: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--threads", help="Numbers of threads to try; default: all cores and half."),
    ] = None,
    streams: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--streams", help="Batches at once to try; default: 1, 2, 4, ... all cores."),
    ] = None,
    tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--tokens", min=2, help="Length of texts; default: 16, a usual caption."),
    ] = None,
    device: Device = None,
    max_batch_ms: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--max-batch-ms", help="Longest time that a batch may take."),
    ] = None,
    margin: Annotated[
        float,
        typer.Option("--margin", min=0, help="Points of accuracy that int8 and fp8 may lose."),
    ] = 0.5,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Time budget; a step that has begun is finished.")
    ] = 10.0,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--out",
            help="The file for clipperf.load; default: in the store.",
        ),
    ] = None,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--bundle",
            help="Also a folder with the file and what it needs, to deploy.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the fastest runtime, precision, threads, streams and batch for this machine."""
    from clipperf.bench import tune as bench
    from clipperf.bench.best import BEST
    from clipperf.models import zoo
    from clipperf.nouns.model import Sizes
    from clipperf.report.tuning import tuning_table
    from clipperf.system import results, store
    from clipperf.system.housekeeping.in_use import using
    from clipperf.system.housekeeping.references import note_tuning
    from clipperf.system.progress import progress
    from clipperf.system.targets import expanded, kind_of

    for option, value in (("--max-batch-ms", max_batch_ms), ("--minutes", minutes)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{option} {value}: give a number above 0")
    runtimes = None if runtime is None else names(runtime, "--runtime")
    if BEST in (runtimes or ()):
        raise UsageError(
            f"--runtime {BEST} is what tune finds out by measuring: leave --runtime out"
        )
    spec = zoo.resolve(model, pretrained, Sizes(image_size, context_length))
    path = expanded(out or store.tuning_path(spec, sides(tower)))
    if kind_of(path) == "folder":
        raise UsageError(f"--out {out} is a folder: name a file in it")
    if tokens is not None and tower == "image":
        raise UsageError("--tokens is for text towers: leave it out with --tower image")
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"--device {device}: choose cpu or cuda")
    if tokens is not None and tokens > spec.context_tokens:
        raise UsageError(f"--tokens {tokens}: {spec.id} takes up to {spec.context_tokens}")
    wishes = bench.Wishes(
        spec=spec,
        sides=sides(tower),
        runtimes=runtimes,
        precisions=None if precision is None else names(precision, "--precision"),
        batches=numbers(batch, "--batch"),
        threads=None if threads is None else numbers(threads, "--threads"),
        streams=None if streams is None else numbers(streams, "--streams"),
        tokens=tokens,
        device=device,
        max_batch_s=None if max_batch_ms is None else max_batch_ms / 1e3,
        margin=margin,
        budget_s=minutes * 60,
    )
    bundle = folder_to_deploy(bundle, "--bundle")
    if bundle is not None:
        bench.check_bundle(bundle)
    refuse_to_replace_data(path, tunings=True)
    with using(), results.alone(path, "--out"), progress(quiet) as bar:
        results.told_what_goes(path, "when this is done")
        tuning = bench.tune(wishes, path, command=command_line(), on_stage=bar.stage)
        note_tuning(path)
        if bundle is not None:
            bench.write_bundle(tuning, path, bundle)
    if json:
        print_json({"path": str(path), **vars(tuning)}, tell)
    else:
        print_tables(tuning_table(tuning), write=tell)
        tell_lines("", f'clipperf.load("{bundle or path}")')
