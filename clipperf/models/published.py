"""Published figures of CLIP models: what a measurement can be held against.

The tables are package data (`clipperf/data/reference`, whose README names each source). Nothing
here imports torch or open_clip. Every accuracy is a share of one, whatever unit its source
prints; datasets and metrics bear the names of LAION-AI/CLIP_benchmark, so that one figure can be
looked up across sources. An architecture or tag may be spelled with hyphens or underscores, in
any case.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from clipperf.models.dataset_names import (
    ACC1,
    AVERAGE_RETRIEVAL,
    CLIP_AS_SERVICE_RETRIEVAL,
    CLIP_PAPER_TABLES,
    OPEN_CLIP_38,
    PER_CLASS,
)

CLIP_AS_SERVICE = "CLIP-as-service"
LAION = "LAION CLIP_benchmark"
OPEN_CLIP = "open_clip"
CLIP_PAPER = "CLIP paper"

_LAION_METRICS = (
    ACC1,
    "acc5",
    PER_CLASS,
    "mean_average_precision",
    "image_retrieval_recall@5",
    "text_retrieval_recall@5",
)


@dataclass(frozen=True)
class Published:
    """One published accuracy: `value` is a share of one, `source` names table and project."""

    dataset: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class BasicStatistics:
    """A row of CLIP-as-service's size table: PyTorch, TITAN RTX 24 GB, batch 8.

    `disk_mib` is the weights' file in MiB; `peak_ram_gb` and `peak_vram_gb` are increases, in the
    source's GB. `alias` is the model's name there (``NAME::TAG``, or ``M-CLIP/NAME``). The queries
    a second are a whole server's; see `speeds`.
    """

    alias: str
    disk_mib: int
    peak_ram_gb: float
    peak_vram_gb: float
    text_qps: float | None = None
    image_qps: float | None = None


def normal(name: str) -> str:
    """The spelling under which names are compared: lower case, hyphens for underscores."""
    return name.strip().lower().replace("_", "-")


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of `clipperf/data/reference/NAME`, keyed by its header."""
    text = files("clipperf").joinpath("data", "reference", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def basic_statistics() -> tuple[BasicStatistics, ...]:
    """CLIP-as-service's 29 rows of disk, RAM, VRAM and queries/s, in the source's order."""
    return tuple(
        BasicStatistics(
            alias=row["model"],
            disk_mib=int(row["disk_mb"]),
            peak_ram_gb=float(row["peak_ram_gb"]),
            peak_vram_gb=float(row["peak_vram_gb"]),
            text_qps=float(row["text_qps"]),
            image_qps=float(row["image_qps"]),
        )
        for row in read_table("clip_as_service_basic_statistics.csv")
    )


def published_accuracy(architecture: str, tag: str) -> list[Published]:
    """Every published accuracy of one model, source by source; empty where there is none.

    The `openai` weights are QuickGELU ones under every name, so ``ViT-B-32-quickgelu`` and
    ``ViT-B-32`` share theirs; other tags are kept apart, as the activation changes the result.
    """
    return list(every_published().get(model_key(architecture, tag), ()))


def accuracy(
    architecture: str,
    tag: str,
    dataset: str = "imagenet1k",
    metric: str = ACC1,
    source: Literal["open_clip", "LAION", "CLIP paper", "CLIP-as-service"] | None = None,
) -> Published | None:
    """One published figure; without `source`, open_clip's before LAION's before the paper's."""
    return next(
        (
            p
            for p in published_accuracy(architecture, tag)
            if (p.dataset, p.metric) == (dataset, metric) and p.source.startswith(source or "")
        ),
        None,
    )


def model_key(architecture: str, tag: str) -> tuple[str, str]:
    """What two spellings of one model have in common; see `published_accuracy`."""
    name, weights = normal(architecture), normal(tag)
    return (name.removesuffix("-quickgelu") if weights == "openai" else name, weights)


@cache
def every_published() -> dict[tuple[str, str], tuple[Published, ...]]:
    """The published accuracies of every model by its `model_key`."""
    found: dict[tuple[str, str], dict[Published, None]] = {}
    for architecture, tag, row in _every_row():
        # A dict keeps the order and drops the second of two equal rows (an openai model that a
        # table lists with and without "-quickgelu").
        found.setdefault(model_key(architecture, tag), {})[row] = None
    return {key: tuple(rows) for key, rows in found.items()}


def _every_row() -> Iterator[tuple[str, str, Published]]:
    yield from _open_clip_rows()
    yield from _laion_rows()
    yield from _paper_rows("clip_paper_table4_zeroshot.csv", f"{CLIP_PAPER}, Table 4", "")
    yield from _paper_rows(
        "clip_paper_table3_linear_probe.csv", f"{CLIP_PAPER}, Table 3", "linear_probe_"
    )
    yield from _clip_as_service_rows()


def _open_clip_rows() -> Iterator[tuple[str, str, Published]]:
    for row in read_table("open_clip_zeroshot_38_datasets.csv"):
        for column, (dataset, metric) in OPEN_CLIP_38.items():
            if row[column]:
                yield _figure(row["name"], row["pretrained"], dataset, metric, row[column])
    for row in read_table("open_clip_retrieval.csv"):
        for column, value in row.items():
            if value and column not in ("name", "pretrained", "params (M)", "FLOPs (B)"):
                dataset, metric = _retrieval_column(column)
                yield _figure(row["name"], row["pretrained"], dataset, metric, value)


def _figure(
    architecture: str, tag: str, dataset: str, metric: str, value: str
) -> tuple[str, str, Published]:
    return architecture, tag, Published(dataset, metric, float(value), f"{OPEN_CLIP} docs")


def _retrieval_column(column: str) -> tuple[str, str]:
    """("flickr30k", "image_retrieval_recall@5") for "Flickr image retr. R@5", and so on."""
    if column == "Average score":
        return AVERAGE_RETRIEVAL, "mean"
    first, _, rest = column.partition(" ")
    if first == "WinoGAViL":
        return "winogavil", rest.replace(" ", "_").replace("avg_jaccard_score", "jaccard_score_avg")
    dataset = {"Flickr": "flickr30k", "MSCOCO": "mscoco_captions"}[first]
    return dataset, rest.replace(" retr. R@", "_retrieval_recall@")


def _laion_rows() -> Iterator[tuple[str, str, Published]]:
    for row in read_table("laion_clip_benchmark.csv"):
        for metric in _LAION_METRICS:
            if row[metric]:
                figure = Published(row["dataset"], metric, float(row[metric]), LAION)
                yield row["model"], row["pretrained"], figure


def _paper_rows(table: str, source: str, prefix: str) -> Iterator[tuple[str, str, Published]]:
    for row in read_table(table):
        for column, (dataset, metric) in CLIP_PAPER_TABLES.items():
            if row.get(column):
                share = round(float(row[column]) / 100, 6)  # the paper prints percent
                yield row["model"], "openai", Published(dataset, prefix + metric, share, source)


def _clip_as_service_rows() -> Iterator[tuple[str, str, Published]]:
    for row in read_table("clip_as_service_zeroshot_classification.csv"):
        architecture, _, tag = row.pop("model").partition("::")
        for dataset, value in row.items():
            if value:
                yield architecture, tag, Published(dataset, ACC1, float(value), CLIP_AS_SERVICE)
    for row in read_table("clip_as_service_retrieval.csv"):
        architecture, _, tag = row.pop("model").partition("::")
        for column, value in row.items():
            prefix = next(p for p in CLIP_AS_SERVICE_RETRIEVAL if column.startswith(p + "_"))
            metric = column.removeprefix(prefix + "_")
            if value and metric != "average":  # half the sum of its two neighbours
                dataset = CLIP_AS_SERVICE_RETRIEVAL[prefix]
                yield architecture, tag, Published(dataset, metric, float(value), CLIP_AS_SERVICE)
