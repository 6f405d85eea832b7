"""`clipperf eval`: what accuracy they keep."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from clipperf.commands.model_options import ContextLength, ImageSize, Models, Pretrained
from clipperf.commands.options import (
    Device,
    Inputs,
    JsonFile,
    Precisions,
    Quiet,
    Runtimes,
    Threads,
    command_line,
    names,
    open_target,
    pixel_dtypes,
    print_json,
    print_tables,
    prints_json,
    tell_lines,
)
from clipperf.system.terminal import say, tell
from clipperf.text import one_line

if TYPE_CHECKING:
    from clipperf.evals.evaluate import OnStage
    from clipperf.evals.worker import ModelRequest
    from clipperf.nouns.cell import Cell
    from clipperf.nouns.model import ModelSpec

EXAMPLES = (
    "clipperf eval",
    "clipperf eval clipperf-sample --precision fp32,fp16",
    "clipperf eval ViT-B-32 --pretrained laion2b_s34b_b79k --dataset ./photos",
)


def command(
    models: Models = None,
    pretrained: Pretrained = None,
    image_size: ImageSize = None,
    context_length: ContextLength = None,
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
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="Leave out images that cannot be read, for every runtime alike, and name them.",
        ),
    ] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images embedded at once.")] = 32,
    input_: Inputs = "float32",
    device: Device = None,
    threads: Threads = None,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Check zero-shot and retrieval accuracy of each runtime against PyTorch fp32."""
    from clipperf.bench import prepare
    from clipperf.evals import evaluate
    from clipperf.evals.datasets import load_dataset
    from clipperf.nouns.model import Sizes
    from clipperf.nouns.variant import BASELINE_RUNTIME, SIDES
    from clipperf.report.accuracy import accuracy_table
    from clipperf.system.env import available_cores
    from clipperf.system.progress import progress
    from clipperf.text import shown

    specs = prepare.choose_models(models or (), pretrained, Sizes(image_size, context_length))
    runtimes, precisions = names(runtime, "--runtime"), names(precision, "--precision")
    devices = prepare.choose_devices([*dict.fromkeys((*runtimes, BASELINE_RUNTIME))], device)
    # Before a large dataset is read.
    prepare.check_usable(devices)
    prepare.check_precisions(runtimes, precisions)
    inputs = prepare.choose_inputs(runtimes, pixel_dtypes(input_, SIDES))
    with open_target(json, "eval") as target, progress(quiet, total=1) as bar:
        bar.stage(f"reading dataset {shown(dataset)}")
        result, failures = evaluate.evaluate(
            specs,
            devices,
            load_dataset(dataset, skip_unreadable=skip_unreadable),
            model_request,
            precisions=precisions,
            inputs=inputs,
            threads=threads or available_cores(),
            batch=batch,
            command=command_line(),
            path=target,
            on_stage=bar.stage,
            progress=bar.at,
        )
    for failure in failures:
        say(f"failed: {failure.label}: {one_line(failure.reason)}")
    if prints_json(json):
        print_json(result)
    elif result.scores:
        print_tables(accuracy_table([result]), write=tell)
        tell_lines("", f"result file: {result.path}")
    raise typer.Exit(1 if failures else 0)


def model_request(cell: Cell, spec: ModelSpec, on_stage: OnStage) -> ModelRequest:
    """What embeds in a cell with both towers, exported now where it is not there."""
    from clipperf.bench import prepare
    from clipperf.engines import contract
    from clipperf.evals.worker import ModelRequest
    from clipperf.nouns.cell import EngineRequest
    from clipperf.nouns.variant import SIDES, Variant

    variant = Variant(cell.runtime, cell.precision, cell.input)
    folder = prepare.artifact_folder(spec, SIDES, variant, on_stage, (1, cell.batch))
    cells = [dataclasses.replace(cell, side=side) for side in SIDES]
    if contract.get(cell.runtime).artifact is None:
        return ModelRequest(folder, tuple(EngineRequest(each, spec, None) for each in cells))
    return ModelRequest(folder, tuple(prepare.request_in(folder, c, spec)[0] for c in cells))
