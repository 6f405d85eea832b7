"""Sizing for hardware that was not measured: published speeds, ratios and errors by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from report_data import PUBLISHED, cell, result, timed

from clipperf.errors import UsageError
from clipperf.models.speeds import (
    TITAN_RTX,
    hardware,
    hardware_named,
    image_towers,
    newest,
    query_times,
    speeds,
    speeds_of,
)
from clipperf.nouns.result import ResultFile
from clipperf.report.build import build_report
from clipperf.report.records import environments
from clipperf.report.sizing.assumed import largest_error, published_error
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.tables import sizing_tables
from clipperf.report.sizing.types import Assumed, Targets
from clipperf.report.speeds import speeds_table

RTX_4090 = "NVIDIA GeForce RTX 4090"
EAGER = "timm amp, eager, nchw, torch 2.9.1, cu128"


# --- what is published ---------------------------------------------------------------------


def test_speeds_are_those_of_the_files_with_source_and_date() -> None:
    found = [s for s in newest(speeds_of("ViT-B-32::laion2b_e16", RTX_4090)) if s.setup == EAGER]
    assert [(s.per_s, s.batch, s.date, s.tower, s.side) for s in found] == [
        (12150.93, 1024, "2026-01-06", "vit_base_patch32_clip_224", "image")
    ]
    assert found[0].source == (
        "huggingface/pytorch-image-models, results/benchmark-infer-amp-nchw-pt291-cu128-4090.csv"
    )
    assert all(s.per_s > 0 and s.source and len(s.date) == 10 for s in speeds())
    assert len(hardware()) == 7 and len(query_times()) == 53
    titan = speeds_of("ViT-H-14::laion2b_s32b_b79k", TITAN_RTX)
    assert {(s.side, s.per_s, s.server) for s in titan} == {
        ("text", 642.0, True),
        ("image", 91.0, True),
    }
    (immich,) = [t for t in query_times() if t.model == "ViT-B-32::openai"]
    assert (immich.memory_mib, immich.execution_ms, immich.recall) == (1004, 2.26, 0.5937)


def test_openai_s_towers_are_quickgelu_ones_where_those_are_published() -> None:
    quick = "vit_base_patch32_clip_quickgelu_224"
    assert image_towers("ViT-B-32::openai") == [quick, "vit_base_patch32_clip_224"]
    assert image_towers("ViT-B-32-quickgelu") == [quick, "vit_base_patch32_clip_224"]
    assert image_towers("ViT-B-32::laion2b_e16") == ["vit_base_patch32_clip_224"]
    assert image_towers("clipperf-sample") == []
    assert {s.tower for s in speeds_of("ViT-B-32::openai", RTX_4090)} == {quick}
    # RN50 has no quickgelu row of its own: the same network but for that counts.
    assert {s.tower for s in speeds_of("RN50::openai", RTX_4090)} == {"resnet50_clip"}


def test_hardware_by_part_of_its_name() -> None:
    assert hardware_named("rtx4090") == hardware_named("RTX 4090") == RTX_4090
    assert hardware_named("titan") == TITAN_RTX
    with pytest.raises(UsageError, match=r"RTX 3090 or .* name one of them"):
        hardware_named("rtx")
    with pytest.raises(UsageError, match=r"'h100': there is Intel Core i7-12700H, "):
        hardware_named("h100")
    with pytest.raises(UsageError, match="do not say of which tower"):
        hardware_named("7800X3D")


# --- what follows from it ------------------------------------------------------------------


def measured(model: str, image_s: float, text_s: float | None = None) -> list[Any]:
    rows = [timed(cell(model=model), [image_s] * 6)]
    return rows + ([timed(cell("text", model=model), [text_s] * 6)] if text_s else [])


B32, L14, H14, OWN = "ViT-B-32::laion2b_e16", "ViT-L-14::laion400m_e31", "ViT-H-14::x", "Mine::w"
FILES = [
    result(
        [
            *measured(B32, 0.1, 0.05),
            *measured(L14, 0.8, 0.1),
            *measured(H14, 2.0),
            *measured(OWN, 0.4, 0.1),
        ]
    )
]


def assumed(targets: Targets, files: list[ResultFile] = FILES) -> dict[str, Assumed]:
    found = size(files, targets).assumed
    return {p.model_id: p for p in found if p.setup in (EAGER, "CLIP-as-service, PyTorch")}


def published(model: str) -> float:
    return next(s.per_s for s in newest(speeds_of(model, RTX_4090)) if s.setup == EAGER)


def test_a_published_tower_has_its_published_speed() -> None:
    found = assumed(Targets(14000, 0, assume=("rtx4090",), prices=(("rtx4090", 0.5),)))
    plan = found[B32]
    assert (plan.images_per_s, plan.error, plan.texts_per_s) == (12150.93, 1.0, None)
    assert plan.images_rest_on == "published 2026-01-06"
    # 14,000 / (12,151 x 0.7) = 1.65.
    assert (plan.machines, plan.machines_interval) == (2, (2, 2))
    assert plan.per_month == 2 * 0.5 * 730
    assert plan.per_million == pytest.approx(1.0 / 3600 / 14000 * 1e6)


def test_another_tower_follows_from_the_closest_by_the_measured_ratio() -> None:
    plan = assumed(Targets(1000, 0, assume=("rtx4090",)))[OWN]
    # At 2.5 images a second it is 2x from L-14 (1.25) and 4x from B-32 (10): L-14's, times 2.
    assert plan.images_per_s == pytest.approx(2 * published(L14))
    assert plan.images_rest_on == f"published 2026-01-06 for {L14}, times 2.00x measured"
    b, large, h = (published(m) for m in (B32, L14, H14))
    # B-32 from L-14: 8x here. L-14 from H-14: 2.5x here. H-14 from L-14 likewise.
    by_hand = max(abs(math.log(8 * large / b)), abs(math.log(2.5 * h / large)))
    assert plan.error == pytest.approx(math.exp(by_hand))
    load = 1000 / (2 * large * 0.7)
    assert plan.machines_interval == (
        max(1, math.ceil(load / plan.error)),
        max(1, math.ceil(load * plan.error)),
    )


def test_texts_follow_from_the_image_tower_and_the_ratio_is_held_against_the_titan() -> None:
    plan = assumed(Targets(100, 100, assume=("rtx4090",)))[B32]
    # Twice as many texts as images here.
    assert plan.texts_per_s == pytest.approx(2 * 12150.93)
    assert plan.texts_rest_on == "its image tower's, times 2.00x measured"
    # TITAN RTX: 1120 / 292 for B-32 and 1058 / 147 for L-14, here 2 and 8.
    by_hand = max(abs(math.log(2 / (1120 / 292))), abs(math.log(8 / (1058 / 147))))
    assert plan.error == pytest.approx(math.exp(by_hand))
    # Without a text tower that was measured there is nothing to say.
    assert H14 not in assumed(Targets(100, 100, assume=("rtx4090",)))


def test_on_the_titan_both_are_published() -> None:
    plan = assumed(Targets(100, 1000, assume=("titan",), utilisation=1.0))[L14]
    assert (plan.images_per_s, plan.texts_per_s, plan.error) == (147.0, 1058.0, 1.0)
    assert plan.machines == 2  # 100 / 147 + 1000 / 1058 = 1.63


def test_errors_by_hand() -> None:
    assert largest_error([]) is None and largest_error([(1.0, 5.0)]) is None
    # Equal ratios: no error. One that is 3x quicker there than the other would have it:
    assert largest_error([(1.0, 10.0), (2.0, 20.0)]) == pytest.approx(1.0)
    assert largest_error([(1.0, 10.0), (2.0, 60.0)]) == pytest.approx(3.0)
    error = published_error(RTX_4090)
    assert error is not None and 2 < error < 4
    assert published_error(TITAN_RTX) is None


def test_too_few_towers_here_leave_the_error_to_published_ones() -> None:
    files = [result([*measured(B32, 0.1), *measured(OWN, 0.4)])]
    plan = assumed(Targets(1000, 0, assume=("rtx4090",)), files)[OWN]
    assert plan.error == published_error(RTX_4090)


def test_checkpoints_of_one_architecture_do_not_predict_each_other() -> None:
    """Twins are predicted without an error: that the other architecture is far off stays known."""
    twin = "ViT-B-32::laion400m_e31"
    files = [result([*measured(B32, 0.1), *measured(twin, 0.1), *measured(OWN, 0.4)])]
    plan = assumed(Targets(1000, 0, assume=("rtx4090",)), files)[OWN]
    assert plan.error == published_error(RTX_4090)


def test_only_closed_loops_say_what_a_tower_does_here() -> None:
    paced = timed(cell(model=OWN, scenario="mine"), [0.1] * 6)
    files = [result([*measured(L14, 0.8), paced])]
    assert list(assumed(Targets(1000, 0, assume=("rtx4090",)), files)) == [L14]


def test_costs_are_marked_and_have_the_machines_interval() -> None:
    targets = Targets(1000, 0, assume=("rtx4090",), prices=(("rtx4090", 0.5),))
    sizing = size(FILES, targets)
    table = sizing_tables(sizing, environments(FILES))[1]
    rows = [dict(zip(table.names, row, strict=True)) for row in table.rows]
    (row,) = [r for r in rows if r["Model"].value == OWN and r["Published setup"].value == EAGER]
    low, high = assumed(targets)[OWN].machines_interval or (0, 0)
    assert row["Cost a month"].interval == (low * 0.5 * 730, high * 0.5 * 730)
    assert row["Cost a million"].interval == pytest.approx(
        (low * 0.5 / 3.6e6 * 1e6, high * 0.5 / 3.6e6 * 1e6)
    )
    assert row["Cost a month"].text.endswith("(assumed)")


def test_it_stands_apart_and_is_marked() -> None:
    targets = Targets(100, 0, assume=("rtx4090",))
    sizing = size(FILES, targets)
    assert all(o.env_id == "env-a" for o in sizing.options)
    tables = sizing_tables(sizing, environments(FILES))
    assert tables[1].title.startswith(f"Assumed, by published speeds · {RTX_4090}")
    at = tables[1].names.index("Images/s")
    assert all(row[at].endswith("(assumed)") for row in tables[1].texts)
    assert tables[1].caveats[0].startswith("Nothing here was measured")
    document = build_report(FILES, PUBLISHED, targets)
    assert [t.title.partition(" ")[0] for t in document.sections[0].tables][:2] == [
        "Machines",
        "Assumed,",
    ]
    assert "speeds" in [section.key for section in document.sections]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (Targets(1, 0, assume=("h100",)), "no speeds are published for 'h100'"),
        (
            Targets(1, 0, assume=("rtx4090", "titan"), prices=(("titan", 1.0),)),
            r"no price for published NVIDIA GeForce RTX 4090 .* 'published NVIDIA GeForce RTX "
            r"4090=PER_HOUR'",
        ),
    ],
)
def test_what_cannot_be_assumed(targets: Targets, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        size(FILES, targets)


def test_what_nothing_is_known_of_is_refused() -> None:
    alone = [result(measured(OWN, 0.4, 0.1))]
    words = rf"{RTX_4090}: no speed there follows for {OWN}, .* Published there are .*ViT-B-32"
    with pytest.raises(UsageError, match=words):
        size(alone, Targets(100, 0, assume=("rtx4090",)))


def test_the_table_of_speeds() -> None:
    table = speeds_table([B32, "ViT-B-32::openai"])
    assert table is not None
    rows = [dict(zip(table.names, row, strict=True)) for row in table.texts]
    eager = [r for r in rows if r["Setup"] == EAGER and r["Model"] == "ViT-B-32"]
    # One line for both sets of weights: 12,150.93 in the source.
    assert [(r["Hardware"], r["Inputs/s"]) for r in eager] == [(RTX_4090, "12151")]
    assert {r["Hardware"] for r in rows} >= {RTX_4090, TITAN_RTX, "AMD Ryzen 7 7800X3D"}
    assert speeds_table(["clipperf-sample"]) is None
    json.dumps(table.texts)
