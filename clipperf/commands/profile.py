"""`clipperf profile`: what towers cost."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from clipperf.commands.model_options import ContextLength, ImageSize, Models, Pretrained
from clipperf.commands.options import (
    PRECISION_NAMES,
    Device,
    Inputs,
    JsonFile,
    Quiet,
    Threads,
    TowerChoice,
    command_line,
    names,
    numbers,
    open_target,
    pixel_dtypes,
    print_json,
    print_tables,
    prints_json,
    sides,
    tell_lines,
)
from clipperf.errors import UsageError
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.system.terminal import tell

EXAMPLES = (
    "clipperf profile",
    "clipperf profile ViT-B-32 --pretrained random --runtime torch,onnx --batch 1,8,32",
    "clipperf profile --tower text --tokens 8,77 --json profile.json",
    "clipperf profile ViT-B-32 --pretrained random --compare-published",
)


USUAL = ("torch", "onnx")
"""The runtimes where nothing can be said of the machine that measures."""


def command(
    models: Models = None,
    pretrained: Pretrained = None,
    image_size: ImageSize = None,
    context_length: ContextLength = None,
    runtime: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--runtime",
            help="Runtimes, with commas: torch,onnx. clipperf doctor lists all. Default: torch and "
            "what export --runtime best takes.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes: 8, or 1,8,32.")] = "8",
    tower: TowerChoice = "both",
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--precision",
            help=f"{PRECISION_NAMES}. Default: fp32; without --runtime, the best's.",
        ),
    ] = None,
    tokens: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--tokens", help="Lengths of texts; default: the model's context."),
    ] = None,
    input_: Inputs = "float32",
    device: Device = None,
    threads: Threads = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter, wider intervals; fine for a first look.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds that one step of a worker may take.")
    ] = 900.0,
    compare_published: Annotated[
        bool, typer.Option("--compare-published", help="Beside the CLIP-as-service figures.")
    ] = False,
    scenario: Annotated[str, typer.Option("--scenario", hidden=True)] = CLOSED_LOOP,
    launcher: Annotated[str, typer.Option("--launcher", hidden=True)] = "local",
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Measure disk, peak RAM and VRAM, load time, latency and throughput of each tower."""
    from dataclasses import replace

    from clipperf.bench import cost, prepare
    from clipperf.bench.best import Choice
    from clipperf.bench.jobs import LAUNCHERS
    from clipperf.bench.profile import Sweep, best_of, failures
    from clipperf.bench.profile import profile as run
    from clipperf.models.published import basic_statistics
    from clipperf.nouns.model import Sizes
    from clipperf.nouns.variant import BASELINE_PRECISION
    from clipperf.report.gpu import gpu_table
    from clipperf.report.published import published_table
    from clipperf.report.tables import cost_table
    from clipperf.system.env import available_cores
    from clipperf.system.progress import progress

    if not 0 < timeout <= 86400:
        raise UsageError(f"--timeout {timeout}: give seconds above 0, up to a day")
    asked = None if precision is None else names(precision, "--precision")
    sweep = Sweep(
        specs=tuple(
            prepare.choose_models(models or (), pretrained, Sizes(image_size, context_length))
        ),
        runtimes=USUAL if runtime is None else names(runtime, "--runtime"),
        sides=sides(tower),
        batches=numbers(batch, "--batch"),
        precisions=asked or (BASELINE_PRECISION,),
        device=device,
        threads=threads or available_cores(),
        tokens=numbers(tokens, "--tokens") if tokens else None,
        inputs=pixel_dtypes(input_, sides(tower)),
        scenario=scenario,
    )
    choice: Choice[None] | None = None
    if runtime is None and LAUNCHERS.get(launcher).here:
        with progress(quiet) as bar:
            sweep, choice = best_of(sweep, asked, bar.stage)
    with open_target(json, "profile") as target, progress(quiet, total=sweep.rows) as bar:

        def on_event(event: Any) -> None:
            (bar.done if event.kind == "measured" else bar.stage)(event.text)

        preset = cost.PRESETS["quick" if quick else "default"]
        settings = replace(preset, timeout_s=timeout)
        result = run(
            sweep,
            settings,
            launcher=launcher,
            command=command_line(),
            path=target,
            on_event=on_event,
        )
    if prints_json(json):
        print_json(result)
    else:
        published = published_table([result], basic_statistics()) if compare_published else None
        more = [table for table in (gpu_table([result]), published) if table is not None]
        print_tables(cost_table([result]), *more, write=tell)
        tell_lines("", *([] if choice is None else choice.lines()), f"result file: {result.path}")
    raise typer.Exit(1 if failures(result) else 0)
