"""The published figures, against numbers read off the sources by hand."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from clipperf.models import catalog, published
from clipperf.models.published import accuracy, normal, published_accuracy


def value(architecture: str, tag: str, dataset: str, metric: str, source: str) -> float:
    """The one figure of a model with this dataset, metric and beginning of its source."""
    (figure,) = [
        p
        for p in published_accuracy(architecture, tag)
        if (p.dataset, p.metric) == (dataset, metric) and p.source.startswith(source)
    ]
    return figure.value


def published_models() -> set[tuple[str, str]]:
    """The (architecture, tag) pairs of all tables of accuracy, in their normal spelling."""
    found = set()
    for table in files("clipperf").joinpath("data", "reference").iterdir():
        if not table.name.endswith(".csv") or table.name in NOT_ACCURACY:
            continue
        for row in published.read_table(table.name):
            name, _, tag = (row.get("model") or row["name"]).partition("::")
            weights = normal(tag or row.get("pretrained") or "openai")
            found.add(
                (normal(name).removesuffix("-quickgelu"), weights)
                if weights == "openai"
                else (normal(name), weights)
            )
    return found


NOT_ACCURACY = (
    "clip_as_service_basic_statistics.csv",
    "immich_clip_english.csv",
    "open_clip_model_profile.csv",
    "timm_inference.csv",
)


def test_every_published_model_can_be_named():
    names = {
        (normal(entry.architecture), normal(tag))
        for entry in catalog.entries()
        for tag in entry.tags
    }
    assert len(published_models()) > 100 and published_models() <= names


def test_basic_statistics_row_of_vit_b_32():
    row = published.BasicStatistics("ViT-B-32::laion2b-s34b-b79k", 577, 2.94, 1.40, 1102, 285)
    assert row in published.basic_statistics()


def test_basic_statistics_are_complete():
    rows = published.basic_statistics()
    assert len(rows) == 29
    assert sum(row.alias.startswith("M-CLIP/") for row in rows) == 4
    assert all(100 < row.disk_mib < 6000 and row.peak_ram_gb > 2 for row in rows)


@pytest.mark.parametrize(
    "spelling", ["laion2b_s32b_b79k", "laion2b-s32b-b79k", "LAION2B-S32B_B79K"]
)
def test_hyphens_underscores_and_case_do_not_matter(spelling):
    assert published_accuracy("VIT-H_14", spelling) == published_accuracy(
        "ViT-H-14", "laion2b_s32b_b79k"
    )


@pytest.mark.parametrize(
    ("architecture", "tag", "dataset", "metric", "source", "expected"),
    [
        # CLIP paper: printed in percent.
        ("RN50", "openai", "imagenet1k", "acc1", "CLIP paper, Table 4", 0.596),
        ("ViT-L-14-336", "openai", "imagenet1k", "acc1", "CLIP paper, Table 4", 0.762),
        ("ViT-B-32", "openai", "food101", "acc1", "CLIP paper, Table 4", 0.844),
        ("RN50", "openai", "imagenet1k", "linear_probe_acc1", "CLIP paper, Table 3", 0.733),
        # open_clip: shares.
        ("ViT-B-32", "openai", "imagenet1k", "acc1", "open_clip", 0.6332),
        ("ViT-B-32", "openai", "38 datasets", "mean", "open_clip", 0.5245),
        ("ViT-H-14-378-quickgelu", "dfn5b", "imagenet1k", "acc1", "open_clip", 0.8437),
        ("ViT-B-32", "openai", "vtab/pets", "mean_per_class_recall", "open_clip", 0.87),
        (
            "ViT-H-14",
            "laion2b_s32b_b79k",
            "flickr30k",
            "image_retrieval_recall@1",
            "open_clip",
            0.7764,
        ),
        (
            "ViT-H-14",
            "laion2b_s32b_b79k",
            "mscoco_captions",
            "text_retrieval_recall@5",
            "open_clip",
            0.8606,
        ),
        ("ViT-B-32", "openai", "retrieval average", "mean", "open_clip", 0.6321),
        # LAION: shares.
        ("ViT-B-32", "openai", "imagenet1k", "acc5", "LAION", 0.88778),
        (
            "ViT-B-32",
            "openai",
            "voc2007_multilabel",
            "mean_average_precision",
            "LAION",
            0.7601363658905029,
        ),
        # CLIP-as-service: shares.
        ("RN101", "openai", "imagenetv2", "acc1", "CLIP-as-service", 0.561),
        (
            "ViT-H-14",
            "laion2b_s32b_b79k",
            "mscoco_captions",
            "image_retrieval_recall@5",
            "CLIP-as-service",
            0.734,
        ),
    ],
)
def test_figures_read_off_by_hand(architecture, tag, dataset, metric, source, expected):
    assert value(architecture, tag, dataset, metric, source) == pytest.approx(expected, abs=1e-12)


def test_every_value_is_a_share_of_one():
    for architecture, tag in published_models():
        for figure in published_accuracy(architecture, tag):
            assert 0 <= figure.value <= 1, (architecture, tag, figure)


def test_no_figure_is_there_twice():
    for architecture, tag in published_models():
        figures = published_accuracy(architecture, tag)
        keys = [(p.dataset, p.metric, p.source) for p in figures]
        if len(keys) != len(set(keys)):
            twice = {k for k in keys if keys.count(k) > 1}
            pytest.fail(f"{architecture}::{tag} has several values of {twice}")


def test_no_cell_of_an_accuracy_table_is_lost():
    """As many figures as the tables have non-empty cells, less those that are left out."""
    cells = 0
    left_out = ("name", "model", "pretrained", "dataset", "task", "model_fullname")
    for name in (
        "clip_as_service_retrieval.csv",
        "clip_as_service_zeroshot_classification.csv",
        "clip_paper_table3_linear_probe.csv",
        "clip_paper_table4_zeroshot.csv",
        "laion_clip_benchmark.csv",
    ):
        for row in published.read_table(name):
            cells += sum(
                bool(v) for k, v in row.items() if k not in left_out and not k.endswith("_average")
            )
    found = sum(
        not figure.source.startswith("open_clip")
        for model in published_models()
        for figure in published_accuracy(*model)
    )
    assert found == cells


def test_every_column_of_the_38_dataset_table_is_read():
    (header, *_) = csv.reader(
        files("clipperf")
        .joinpath("data", "reference", "open_clip_zeroshot_38_datasets.csv")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    found = [
        p
        for p in published_accuracy("ViT-B-16", "datacomp_xl_s13b_b90k")
        if p.source.startswith("open_clip")
    ]
    retrieval = len(published.read_table("open_clip_retrieval.csv")[0]) - 4
    # Both tables print WinoGAViL's main score: it is there once.
    assert len(found) == len(header) - 4 + retrieval - 1


def test_openai_weights_are_the_same_under_the_quickgelu_name():
    plain, quick = (published_accuracy(n, "openai") for n in ("ViT-B-32", "ViT-B-32-quickgelu"))
    assert plain == quick != []
    assert accuracy("RN50", "cc12m") != accuracy("RN50-quickgelu", "cc12m")


def test_accuracy_takes_the_preferred_source_or_the_asked_one():
    best = accuracy("RN50", "openai")
    assert best is not None and best.source == "open_clip docs" and best.value == 0.5982
    paper = accuracy("RN50", "openai", source="CLIP paper")
    assert paper is not None and paper.value == 0.596
    assert accuracy("ViT-B-32", "no_such_tag") is None
    assert published_accuracy("no such model", "openai") == []


def test_clip_as_service_flickr_is_kept_apart_from_test_split_figures():
    figures = published_accuracy("ViT-B-32", "openai")
    assert {p.source for p in figures if p.dataset == "flickr30k"} == {
        "open_clip docs",
        "LAION CLIP_benchmark",
    }
    apart = accuracy(
        "ViT-B-32", "openai", "flickr30k (CLIP-as-service split)", "image_retrieval_recall@5"
    )
    assert apart is not None and apart.value == 0.413


def test_readme_names_every_table():
    folder = files("clipperf").joinpath("data", "reference")
    readme = folder.joinpath("README.md").read_text(encoding="utf-8")
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith(".csv")]
    assert len(names) == 11
    assert all(f"`{name}`" in readme for name in names)
