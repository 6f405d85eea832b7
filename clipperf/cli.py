"""The command line: parse, call one function, print. Heavy imports live inside the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from clipperf.errors import UsageError
from clipperf.options import (
    Device,
    ImagesPerS,
    Json,
    JsonFile,
    Models,
    Precisions,
    Pretrained,
    Quiet,
    RamGb,
    Results,
    Runtimes,
    SloMs,
    TextsPerS,
    Threads,
    TowerChoice,
    Utilisation,
    VramGb,
    command_line,
    names,
    numbers,
    open_target,
    print_json,
    prints_json,
    read_results,
    refuse_to_replace_data,
    resumable,
    sides,
)

EXIT_CODES = "Exit codes: 0 ok, 1 something failed (failed cells are rows), 2 usage."

app = typer.Typer(
    name="clipperf",
    help="Export CLIP towers to ONNX, measure what they cost, check what accuracy they keep, "
    f"and size the deployment. {EXIT_CODES}",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _examples(*lines: str) -> str:
    # Each line is a paragraph of its own: typer would fold them into one.
    return "Examples:\n\n" + "\n\n".join(f"  $ {line}" for line in lines)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Which CLIP, in which runtime and precision, fits this machine and keeps its accuracy?"""
    if version:
        from clipperf import __version__

        print(f"clipperf {__version__}")
        raise typer.Exit
    del context


@app.command(epilog=_examples("clipperf models", "clipperf models --search ViT-H --json"))
def models(
    search: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--search", help="Only architectures or tags that contain this text."),
    ] = None,
    json: Json = False,
) -> None:
    """List the models: sizes and GFLOPs of each tower, weights, licences, published accuracy."""
    from clipperf.models import catalog

    found = catalog.search(search) if search else catalog.entries()
    if not found:
        raise UsageError(f"no architecture or tag contains {search!r}; clipperf models lists all")
    if json:
        print_json(catalog.models_json(found))
    else:
        _print_reports(catalog.models_report(found))


@app.command(
    epilog=_examples(
        "clipperf export clipperf-sample",
        "clipperf export ViT-B-32 --pretrained laion2b_s34b_b79k --precision fp16",
        "clipperf export ViT-H-14 --pretrained weights.safetensors --out ./vit-h-14",
        "clipperf export ViT-L-14 --pretrained random --tower image",
    )
)
def export(
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


@app.command(
    epilog=_examples(
        "clipperf profile",
        "clipperf profile ViT-B-32 --pretrained random --runtime torch,onnx --batch 1,8,32",
        "clipperf profile --tower text --tokens 8,77 --json profile.json",
        "clipperf profile ViT-B-32 --pretrained random --compare-published",
    )
)
def profile(
    models: Models = None,
    pretrained: Pretrained = None,
    runtime: Runtimes = "torch,onnx",
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes: 8, or 1,8,32.")] = "8",
    tower: TowerChoice = "both",
    precision: Precisions = "fp32",
    tokens: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--tokens", help="Lengths of texts; default: the model's context."),
    ] = None,
    device: Device = "cpu",
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
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Measure disk, peak RAM and VRAM, load time, latency and throughput of each tower."""
    from dataclasses import replace

    from clipperf.bench import cost, prepare
    from clipperf.bench.profile import Sweep, failures
    from clipperf.bench.profile import profile as run
    from clipperf.env import available_cores
    from clipperf.models.published import basic_statistics
    from clipperf.progress import progress
    from clipperf.report.accuracy import published_report
    from clipperf.report.tables import cost_report

    if not 0 < timeout <= 86400:
        raise UsageError(f"--timeout {timeout}: give seconds above 0, up to a day")
    target = open_target(json, "profile")
    sweep = Sweep(
        specs=tuple(prepare.choose_models(models or (), pretrained)),
        runtimes=names(runtime, "--runtime"),
        sides=sides(tower),
        batches=numbers(batch, "--batch"),
        precisions=names(precision, "--precision"),
        device=device,
        threads=threads or available_cores(),
        tokens=numbers(tokens, "--tokens") if tokens else None,
    )
    with resumable(target), progress(quiet, total=sweep.rows) as bar:

        def on_event(event: Any) -> None:
            (bar.done if event.kind == "measured" else bar.stage)(event.text)

        preset = cost.PRESETS["quick" if quick else "default"]
        settings = replace(preset, timeout_s=timeout)
        result = run(sweep, settings, command=command_line(), path=target, on_event=on_event)
    if prints_json(json):
        print_json(result)
    else:
        published = published_report([result], basic_statistics()) if compare_published else None
        _print_reports(cost_report([result]), *([published] if published else []))
        print(f"\nresult file: {result.path}")
    raise typer.Exit(1 if failures(result) else 0)


@app.command(
    "eval",
    epilog=_examples(
        "clipperf eval",
        "clipperf eval clipperf-sample --precision fp32,fp16",
        "clipperf eval ViT-B-32 --pretrained laion2b_s34b_b79k --dataset ./photos",
    ),
)
def evaluate(
    models: Models = None,
    pretrained: Pretrained = None,
    runtime: Runtimes = "onnx",
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            help="sample, a folder of class folders, or a folder of images with captions.csv "
            "or captions.jsonl.",
        ),
    ] = "sample",
    precision: Precisions = "fp32",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images embedded at once.")] = 32,
    device: Device = "cpu",
    threads: Threads = None,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Check zero-shot and retrieval accuracy of each runtime against PyTorch fp32."""
    from clipperf.bench import evaluate as bench
    from clipperf.bench import prepare
    from clipperf.bench.datasets import load_dataset
    from clipperf.env import available_cores
    from clipperf.progress import progress
    from clipperf.report.accuracy import accuracy_report

    target = open_target(json, "eval")
    specs = prepare.choose_models(models or (), pretrained)
    runtimes, precisions = names(runtime, "--runtime"), names(precision, "--precision")
    prepare.check_runtimes(runtimes, device, precisions)  # before a large dataset is read
    with resumable(target), progress(quiet, total=1) as bar:
        bar.stage(f"reading dataset {dataset}")
        data = load_dataset(dataset)
        result, failures = bench.evaluate(
            specs,
            runtimes,
            data,
            precisions=precisions,
            device=device,
            threads=threads or available_cores(),
            batch=batch,
            command=command_line(),
            path=target,
            on_stage=bar.stage,
            progress=bar.at,
        )
    for failure in failures:
        print(f"failed: {failure.label}: {failure.reason}", file=sys.stderr)
    if prints_json(json):
        print_json(result)
    else:
        if result.scores:
            _print_reports(accuracy_report([result]))
        print(f"\nresult file: {result.path}")
    raise typer.Exit(1 if failures else 0)


@app.command(epilog=_examples("clipperf doctor", "clipperf doctor --json"))
def doctor(json: Json = False) -> None:
    """Say which runtimes and devices are usable here, and what would make the others usable."""
    from clipperf.engines import doctor as checks

    rows = checks.check()
    if json:
        print_json(rows)
    else:
        _print_reports(checks.report(rows))


@app.command(
    epilog=_examples(
        "clipperf report",
        "clipperf report --format html --out report.html",
        "clipperf report profile.json eval.json --format md",
    )
)
def report(
    results: Results = None,
    fmt: Annotated[str, typer.Option("--format", help="text, md, json, csv or html.")] = "text",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Write here instead of printing."),
    ] = None,
    images_per_s: ImagesPerS = 0.0,
    texts_per_s: TextsPerS = 0.0,
    slo_ms: SloMs = None,
    ram_gb: RamGb = None,
    vram_gb: VramGb = None,
    utilisation: Utilisation = 0.7,
) -> None:
    """Make a report from stored results alone; with targets it includes the sizing."""
    from clipperf.files import write_text
    from clipperf.models.published import basic_statistics
    from clipperf.report.build import build_report, render

    targets = None
    if images_per_s or texts_per_s:
        targets = _targets(images_per_s, texts_per_s, slo_ms, ram_gb, vram_gb, utilisation)
    if out is not None:
        refuse_to_replace_data(out, results)
    document = build_report(read_results(results), basic_statistics(), targets)
    text = render(document, fmt)
    if out is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        write_text(out.expanduser().absolute(), text)
        print(f"report: {out}")


@app.command(
    epilog=_examples(
        "clipperf size --images-per-s 500 --texts-per-s 2000",
        "clipperf size --images-per-s 50 --slo-ms 100 --ram-gb 16 --json",
    )
)
def size(
    results: Results = None,
    images_per_s: ImagesPerS = 0.0,
    texts_per_s: TextsPerS = 0.0,
    slo_ms: SloMs = None,
    ram_gb: RamGb = None,
    vram_gb: VramGb = None,
    utilisation: Utilisation = 0.7,
    json: Json = False,
) -> None:
    """Say which measured configurations meet the targets, and how many machines they need."""
    from clipperf.report.build import sizing_json
    from clipperf.report.records import environments
    from clipperf.report.sizing import size as plan
    from clipperf.report.sizing_tables import sizing_reports

    targets = _targets(images_per_s, texts_per_s, slo_ms, ram_gb, vram_gb, utilisation)
    found = read_results(results)
    sizing = plan(found, targets)
    if json:
        print_json(sizing_json(sizing))
    else:
        _print_reports(*sizing_reports(sizing, environments(found)))
    raise typer.Exit(0 if sizing.plans else 1)


def _targets(
    images_per_s: float,
    texts_per_s: float,
    slo_ms: float | None,
    ram_gb: float | None,
    vram_gb: float | None,
    utilisation: float,
) -> Any:
    import math

    from clipperf.report.sizing import Targets
    from clipperf.units import GIB

    for option, value in (("--ram-gb", ram_gb), ("--vram-gb", vram_gb), ("--slo-ms", slo_ms)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{option} {value}: give a number above 0")
    for option, value in (("--images-per-s", images_per_s), ("--texts-per-s", texts_per_s)):
        if not 0 <= value <= 1e9:
            raise UsageError(f"{option} {value}: give a number from 0 to a billion")

    return Targets(
        images_per_s=images_per_s,
        texts_per_s=texts_per_s,
        slo_s=None if slo_ms is None else slo_ms / 1e3,
        ram_bytes=None if ram_gb is None else round(ram_gb * GIB),
        vram_bytes=None if vram_gb is None else round(vram_gb * GIB),
        utilisation=utilisation,
    )


def _print_reports(*reports: Any) -> None:
    from rich.console import Console

    from clipperf.report.formats import TEXT_WIDTH, rich_report

    # Into a file or a pipe there is no window to fit: wide tables stay whole as far as they can.
    fits_window = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if fits_window else TEXT_WIDTH)
    for each in reports:
        console.print(rich_report(each, console.width))
