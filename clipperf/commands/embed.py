"""`clipperf embed`: a dataset to vectors on the disk, exactly once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from clipperf.commands.model_options import KINDS, ContextLength, ImageSize, Pretrained
from clipperf.commands.options import (
    Device,
    Json,
    Quiet,
    Threads,
    print_json,
    tell_lines,
)
from clipperf.commands.ray_options import Ray, RayStore, check
from clipperf.errors import UsageError
from clipperf.text import shown

if TYPE_CHECKING:
    from clipperf.embed.wishes import Limit, Summary
    from clipperf.nouns.variant import Side

EXAMPLES = (
    "clipperf embed photos --out vectors",
    "clipperf embed laion.parquet --column URL --id-column key --model ViT-B-32 --out vectors",
    "clipperf embed captions.csv --tower text --artifact vit-b-32 --normalize --out texts",
    "clipperf embed shards --artifact tuned.json --format parquet --max-corrupt 5% --out vectors",
    "clipperf embed /shared/photos --model ViT-B-32 --out vectors --ray",
)

SAMPLE = "sample"
MOST_LOSSES = 5
LEFT_OUT = 3
"""The exit code where all shards are there, and items are corrupt."""


def command(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A folder or zip of images; a folder of WebDataset or Parquet files; one such "
            "file (.tar, .parquet); a CSV, TSV or JSON lines with paths or URLs; sample. For texts "
            "the same with texts, or a .txt with one a line.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where vectors go; named again, it is resumed.",
        ),
    ],
    tower: Annotated[
        str, typer.Option("--tower", help="image or text: what is embedded.")
    ] = "image",
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--model", help=f"{KINDS}. Default: the one exported model, else the sample."),
    ] = None,
    pretrained: Pretrained = None,
    image_size: ImageSize = None,
    context_length: ContextLength = None,
    artifact: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--artifact",
            metavar="FOLDER|TUNING",
            help="An exported folder or the file of clipperf tune, in place of --model.",
        ),
    ] = None,
    runtime: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--runtime", help="Which opens the tower; with --model by default onnx."),
    ] = None,
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--precision", help="With --model: that of its export; default fp32."),
    ] = None,
    preprocess: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--preprocess", help="exact, fast or draft; default: as it was exported."),
    ] = None,
    column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--column", help="What a table's inputs are in; default: image, url, text, ..."
        ),
    ] = None,
    id_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--id-column", help="Ids of a table; default: id, else the row's number."),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help="Of shards: npy, safetensors or parquet.")
    ] = "npy",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of vectors on the disk: float32 or float16.")
    ] = "float32",
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Unit vectors, whatever the tower gives.")
    ] = False,
    shard_items: Annotated[
        int, typer.Option("--shard-items", min=1, max=1_000_000, help="Items of a shard.")
    ] = 10_000,
    max_corrupt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--max-corrupt",
            metavar="N|N%",
            help="Fail where more items, or a larger share of them, cannot be read.",
        ),
    ] = None,
    retry_corrupt: Annotated[
        bool,
        typer.Option("--retry-corrupt", help="Make shards again that have corrupt items."),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read what is there for its sha256; damaged is made again."),
    ] = False,
    batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--batch", min=1, help="Run at once; default: as tuned, else 32."),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--workers", min=0, help="Threads that make pixels; default: all cores."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    streams: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--streams", min=1, help="Batches that run at once; default: as tuned, or 1."),
    ] = None,
    ray: Ray = None,
    ray_store: RayStore = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed a dataset into shards of vectors with ids; killed, the same command goes on."""
    from clipperf.commands.embed_tower import TowerWish, machines, opened
    from clipperf.embed.items import Wanted
    from clipperf.embed.run import embed, embed_by
    from clipperf.embed.wishes import Wishes
    from clipperf.evals.place import SAMPLE as SAMPLE_ZIP
    from clipperf.nouns.model import Sizes
    from clipperf.system.housekeeping.in_use import using
    from clipperf.system.progress import progress
    from clipperf.system.targets import expanded

    side = _side(tower)
    if dtype not in ("float32", "float16"):
        raise UsageError(f"--dtype {dtype}: choose float32 or float16")
    wishes = Wishes(
        wanted=Wanted(side, column, id_column),
        format=format,
        dtype=dtype,
        shard_items=shard_items,
        normalize=normalize,
        workers=workers,
        limit=_limit(max_corrupt),
        retry_corrupt=retry_corrupt,
        verify=verify,
    )
    named = (model, pretrained, precision, image_size, context_length)
    if artifact is not None and named != (None,) * 5:
        raise UsageError(
            "--artifact is a model that was exported: leave out --model, --pretrained, "
            "--precision, --image-size and --context-length"
        )
    if side == "text" and (preprocess, workers) != (None, None):
        raise UsageError("--preprocess and --workers are for images: leave them out with texts")
    if dataset.lower().startswith(("http://", "https://")):
        raise UsageError(
            f"{shown(dataset)}: datasets are read from this machine, not fetched: fetch the file "
            f"first; the images that its rows name may be URLs"
        )
    path = SAMPLE_ZIP if dataset == SAMPLE else expanded(dataset)
    check(ray, ray_store, device)
    sizes = Sizes(image_size, context_length)
    wish = TowerWish(
        *(side, model, pretrained, sizes, artifact, runtime, precision, preprocess),
        *(batch, device, threads, streams),
    )
    with using(), progress(quiet, total=1) as bar:
        where = (path, expanded(out))
        if ray is None:
            summary = embed(*where, lambda: opened(wish, bar.stage), wishes, bar.stage, bar.at)
        else:
            there = partial(machines, wish, ray, ray_store, path, bar.stage)
            summary = embed_by(*where, there, wishes, bar.stage, bar.at)
    if json:
        print_json(_plain(summary))
    else:
        tell_lines(*_lines(summary))
    raise typer.Exit(LEFT_OUT if summary.corrupt else 0)


def _side(tower: str) -> Side:
    if tower == "image":
        return "image"
    if tower == "text":
        return "text"
    raise UsageError(f"--tower {tower}: choose image or text; each has a folder of its own")


def _limit(text: str | None) -> Limit:
    """What --max-corrupt means; raises UsageError."""
    from clipperf.embed.wishes import Limit

    if text is None:
        return Limit()
    number = text.removesuffix("%")
    try:
        if number != text and 0 <= float(number) <= 100:
            return Limit(share=float(number) / 100)
        if number == text and int(number) >= 0:
            return Limit(number=int(number))
    except ValueError:
        pass
    raise UsageError(f"--max-corrupt {text}: give a number of items, or a share such as 5%")


def _lines(summary: Summary) -> list[str]:
    """What is in the folder, and what is not."""
    from clipperf import units
    from clipperf.text import number_of, one_line

    manifest = summary.manifest
    unit = "unit length" if manifest.normalized else "as the tower gives them"
    vectors = number_of(summary.vectors, "vector")
    said = [
        f"{manifest.model} {manifest.side} in {manifest.runtime} {manifest.precision}: "
        f"{vectors} of {manifest.dimension} {manifest.plan.dtype}, {unit}",
        f"{number_of(summary.shards, 'shard')} ({manifest.plan.format}), {summary.made} made now"
        + (
            f": {number_of(summary.tried, 'item')} in {units.seconds(summary.seconds)}, "
            f"{units.rate(summary.tried / max(1e-9, summary.seconds))}/s"
            if summary.made
            else ""
        ),
    ]
    if summary.lost:
        said.append(f"lost on the way, and done again ({len(summary.lost)}):")
        said += [one_line(f"  {each}") for each in summary.lost[:MOST_LOSSES]]
    if summary.clipped:
        said.append(f"{number_of(summary.clipped, 'image')}: values that are no bytes were clipped")
    if summary.corrupt:
        are = "item is" if summary.corrupt == 1 else "items are"
        said.append(f"{summary.corrupt} {are} corrupt, and listed in shard-*.corrupt.jsonl:")
        said += [one_line(f"  {id_}: {reason}") for id_, reason in summary.named]
        more = summary.corrupt - len(summary.named)
        said += [f"  and {more} more"] if more > 0 else []
    return [*said, f"folder: {summary.folder}"]


def _plain(summary: Summary) -> dict[str, Any]:
    """A summary for JSON."""
    corrupt = [{"id": id_, "reason": reason} for id_, reason in summary.named]
    return {**vars(summary), "named": corrupt}
