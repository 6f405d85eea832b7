"""`clipperf export`: towers to artifacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from clipperf.commands.model_options import ContextLength, ImageSize, Model, Pretrained
from clipperf.commands.options import (
    Device,
    Json,
    Quiet,
    TowerChoice,
    folder_to_deploy,
    for_images,
    names,
    pixel_dtypes,
    print_json,
    ranged,
    sides,
    tell_lines,
)
from clipperf.errors import UsageError
from clipperf.system.terminal import tell

if TYPE_CHECKING:
    from clipperf.bench.best import Choice
    from clipperf.export.deployment import LaidOut
    from clipperf.export.folder import Exported
    from clipperf.nouns.variant import Variant

EXAMPLES = (
    "clipperf export clipperf-sample",
    "clipperf export ViT-B-32 --pretrained laion2b_s34b_b79k --precision fp16",
    "clipperf export ViT-H-14 --pretrained weights.safetensors --out ./vit-h-14",
    "clipperf export ViT-L-14 --pretrained random --tower image",
    "clipperf export ./my-clip  # a folder with open_clip_config.json",
    "clipperf export my_arch.json --pretrained run/epoch_20.pt --image-size 336",
    "clipperf export ViT-B-32 --runtime openvino --precision int8 --calibrate ./photos",
    "clipperf export ViT-B-32 --runtime best",
    "clipperf export ViT-B-32 --input uint8",
    "clipperf export ViT-B-32 --layout transformers --precision fp32,int8 --out ./vit-b-32-js",
    "clipperf export ViT-B-32 --runtime trt --precision fp16 --batch 1:8:64",
    "clipperf export ViT-B-32 --runtime trt --device cuda:1  # for the second GPU",
    "clipperf export ViT-B-32 --runtime trt-rtx --precision fp16 --target sm86,sm89,sm120",
)


def command(
    model: Model,
    pretrained: Pretrained = None,
    image_size: ImageSize = None,
    context_length: ContextLength = None,
    tower: TowerChoice = "both",
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            help="What it is for: onnx, openvino, trt, trt-rtx, or best: the first that keeps its "
            "accuracy of what is expected to be the fastest on this processor.",
        ),
    ] = "onnx",
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--precision",
            help="fp32, fp16, bf16, int8 or fp8; TensorRT also tf32; OpenVINO fp32, bf16, int8w, "
            "int8, or int8-bf16, which computes the rest in bf16. Default: fp32; with best, "
            "whichever is.",
        ),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--out",
            help="Artifact folder; default: in the store.",
        ),
    ] = None,
    layout: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--layout",
            help="Make --out a folder for another program: transformers (transformers.js, optimum; "
            "takes several precisions), fastembed or triton (a model repository).",
        ),
    ] = None,
    input_: Annotated[
        str,
        typer.Option(
            "--input",
            help="Pixels that the image tower takes: float32, or uint8, which it normalises "
            "itself.",
        ),
    ] = "float32",
    preprocess: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--preprocess",
            metavar="exact|fast|draft",
            help="How clipperf.load prepares images; default: as the folder says, exact in a new "
            "one.",
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Make the graph give unit vectors.")
    ] = False,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Let the image tower give what it computes before its projection, too, for linear "
            "probes: onnx and openvino.",
        ),
    ] = False,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep a tower that fails the parity gate.")
    ] = False,
    calibrate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--calibrate",
            metavar="sample|DIR",
            help="int8, fp8: samples that set the scales and judge the accuracy; for onnx int8 "
            "they make the scales fixed (int8-static). Default: sample.",
        ),
    ] = None,
    margin: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--margin",
            min=0,
            help="int8, fp8: points of recall@1 and top-1 that may be lost; layers stay as they "
            "are until it holds. Default: 0.5.",
        ),
    ] = None,
    batch: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--batch", help="TensorRT: batches as MIN:OPT:MAX; default: 1:8:64."),
    ] = None,
    device: Device = None,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--target",
            help="TensorRT for RTX: GPU kinds to build for; default: the GPU here, else "
            "sm86,sm89,sm120 (fp8: sm89,sm120).",
        ),
    ] = None,
    hardware_compat: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--hardware-compat",
            help="TensorRT: also run on other GPUs: ampere-plus or same-compute-capability.",
        ),
    ] = None,
    workspace: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--workspace", min=1, help="TensorRT: MiB of scratch memory an engine may use."
        ),
    ] = None,
    opt_level: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--opt-level", min=0, max=5, help="TensorRT: effort of building, 0 to 5."),
    ] = None,
    timing_cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--timing-cache", help="TensorRT: file of timings; default: in the store."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="TensorRT: its own messages, on standard error.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a model's towers to ONNX, OpenVINO or TensorRT, checked, as a deployable folder."""
    from functools import partial

    from clipperf.bench import best
    from clipperf.export.folder import set_preprocess
    from clipperf.export.make import make
    from clipperf.export.workshop import Workshop
    from clipperf.inputs import preprocess_fast
    from clipperf.models import zoo
    from clipperf.nouns.model import Sizes
    from clipperf.nouns.variant import BASELINE_PRECISION, Variant
    from clipperf.system.housekeeping.in_use import using
    from clipperf.system.progress import progress
    from clipperf.system.targets import expanded

    towers = sides(tower)
    out = folder_to_deploy(out, "--out")
    pixel_dtype = pixel_dtypes(input_, towers, several=False)[0]
    for_images(towers, preprocess=preprocess, features=features)
    options = {
        "--calibrate": calibrate,
        "--margin": margin,
        "--batch": None if batch is None else ranged(batch, "--batch"),
        "--target": None if target is None else names(target.lower(), "--target"),
        "--hardware-compat": hardware_compat,
        "--workspace": None if workspace is None else workspace * 2**20,
        "--opt-level": opt_level,
        "--timing-cache": None if timing_cache is None else str(expanded(timing_cache)),
        "--verbose": verbose or None,
    }
    usual = Variant(
        runtime, precision or BASELINE_PRECISION, pixel_dtype, normalize, features=features
    )
    asked = None if precision is None else names(precision, "--precision")
    if preprocess is not None:
        preprocess_fast.check(preprocess, "--preprocess")
    if layout is not None:
        laying = in_layout(layout, usual, asked, options, device, out, preprocess)
    else:
        variant = best.checked(usual, options, keep_failed, device)
    with using(), progress(quiet, plain=verbose) as bar, Workshop() as workshop:
        if zoo.must_read(model, pretrained):
            workshop.start_early()
            bar.stage("reading the checkpoint")
        spec = zoo.resolve(model, pretrained, Sizes(image_size, context_length))
        how: dict[str, Any] = {
            "keep_failed": keep_failed,
            "on_stage": bar.stage,
            "workshop": workshop,
        }
        if layout is not None:
            told = partial(tell_laid_out, laying(spec, towers, **how))
        else:
            making = partial(make, spec, towers, out=out, **how)
            exported, choice = best.made(variant, options, making, asked, towers, device)
            if preprocess is not None:
                exported = set_preprocess(exported, preprocess, bar.stage)
            told = partial(tell_exported, exported, choice)
    raise typer.Exit(1 if told(json) else 0)


def in_layout(
    layout: str,
    usual: Variant,
    precisions: Sequence[str] | None,
    options: Mapping[str, Any],
    device: str | None,
    out: Path | None,
    preprocess: str | None,
) -> Callable[..., LaidOut]:
    """What lays a model's towers out in `out`; see `deployment.lay_out`.

    Raises:
        UsageError: an option is missing or not for this, or the runtime does not run on `device`.
    """
    from dataclasses import replace
    from functools import partial

    from clipperf.bench import prepare
    from clipperf.bench.best import BEST
    from clipperf.export.deployment import DEPLOYMENTS, lay_out
    from clipperf.export.exporter import chosen_all
    from clipperf.nouns.variant import BASELINE_PRECISION

    DEPLOYMENTS.get(layout)  # an unknown one is what to say first
    if out is None or preprocess is not None:
        wrong = "needs --out" if out is None else "takes no --preprocess"
        raise UsageError(f"--layout {layout} {wrong}")
    if usual.runtime == BEST:
        raise UsageError(
            f"--layout {layout} is for a program that runs a runtime of its own: name that in the "
            f"place of --runtime {BEST}"
        )
    asked = [replace(usual, precision=name) for name in precisions or [BASELINE_PRECISION]]
    variants = chosen_all(asked, options)
    prepare.choose_devices([usual.runtime], device)
    return partial(lay_out, layout, variants=variants, out=out)


def tell_laid_out(laid: LaidOut, json: bool) -> bool:
    """Say what was laid out; returns whether it holds a tower that failed its gate."""
    from clipperf.report.exported import laid_out_lines

    if json:
        print_json(laid, tell)
    else:
        tell_lines(*laid_out_lines(laid))
    return laid.failed


def tell_exported(exported: Exported, choice: Choice[Any] | None, json: bool) -> bool:
    """Say what was exported, and why where clipperf chose; returns whether it failed its gate."""
    from clipperf.report.exported import exported_lines, failed

    if json:
        more = {} if choice is None else {"best": choice.said}
        print_json({"up_to_date": exported.up_to_date, **vars(exported), **more}, tell)
    else:
        tell_lines(*([] if choice is None else choice.lines()), *exported_lines(exported))
    return failed(exported)
