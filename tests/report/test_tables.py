"""The report's tables against figures worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
from report_data import (
    ENVIRONMENT,
    GIB,
    MIB,
    OTHER,
    PUBLISHED,
    broken,
    cell,
    memory,
    realistic,
    result,
    score,
    timed,
)

from clipperf.errors import UsageError
from clipperf.models.published import BasicStatistics
from clipperf.nouns.variant import Side
from clipperf.report import findings
from clipperf.report.accuracy import accuracy_table
from clipperf.report.published import published_table
from clipperf.report.records import environments, merge, speed_ratio
from clipperf.report.table import Table
from clipperf.report.tables import cost_table, summary


def column(report: Table, name: str) -> list[str]:
    """One column's cells; the name must be there."""
    at = report.names.index(name)
    return [row[at] for row in report.texts]


def row_of(results, runtime="onnx", **want):
    """The merged row of one runtime."""
    return next(
        r
        for r in merge(results)
        if r.cell.runtime == runtime and all(getattr(r.cell, k) == v for k, v in want.items())
    )


def test_figures_of_one_row() -> None:
    c = cell(batch=8)
    rows = merge([result([timed(c, [0.1, 0.2, 0.4, 0.2, 0.2, 0.2]), memory(c, 110, 10)])])
    (row,) = rows
    assert row.p50_s == 0.2
    assert row.items_per_s == pytest.approx(40)
    # 6 samples: the interval runs from the first to the last, 0.1 to 0.4 s
    assert row.items_interval == pytest.approx((20, 80))
    assert row.rss_delta_bytes == 100 * MIB
    assert row.p90_s is None and row.p99_s is None
    report = cost_table([result([timed(c, [0.1, 0.2, 0.4, 0.2, 0.2, 0.2]), memory(c, 110, 10)])])
    assert column(report, "Items/s") == ["40.0"]
    assert column(report, "p50 ms") == ["200"]
    assert column(report, "RAM +MiB") == ["100"]
    assert column(report, "RAM MiB") == ["110"]
    assert column(report, "Load s") == ["0.50"]
    assert column(report, "First ms") == ["20.0"]
    assert column(report, "Disk MiB") == ["100"]
    assert "p99 ms" not in report.names
    assert any("p99 (662)" in c and "has 6" in c for c in report.caveats)
    assert "M::w" in report.title and "2 threads" in report.title


def test_quantiles_appear_with_enough_calls() -> None:
    runs = [0.001 * (1 + i) for i in range(700)]
    report = cost_table([result([timed(cell(), runs, group=None)])])
    # linear interpolation: 1 + 0.99 * 699 = 693.01 ms
    assert column(report, "p99 ms") == ["693"]
    assert not any("Not shown" in c for c in report.caveats)
    few = cost_table([result([timed(cell(), runs[:64], group=None)])])
    assert column(few, "p90 ms") == ["57.7"]
    assert "p95 ms" not in few.names


def test_ratio_is_paired_by_block() -> None:
    # The machine slows down by half in block 1: pairs still say 2.0 in both blocks.
    slow, fast = cell(), cell(runtime="onnx")
    files = [
        result(
            [
                timed(slow, [0.2, 0.2, 0.4, 0.4], [0, 0, 1, 1]),
                timed(fast, [0.1, 0.1, 0.2, 0.2], [0, 0, 1, 1]),
            ]
        )
    ]
    row = row_of(files)
    assert row.ratio == pytest.approx(2.0)
    assert row.ratio_interval is None  # two pairs are too few
    assert row.ratio_baseline is not None and row.ratio_baseline.setup == "torch fp32"
    assert row_of(files, "torch").ratio is None


def test_ratio_interval_from_six_blocks() -> None:
    files = [
        result(
            [
                timed(cell(), [0.2, 0.2, 0.2, 0.2, 0.2, 0.2]),
                timed(cell(runtime="onnx"), [0.1, 0.1, 0.1, 0.1, 0.08, 0.16]),
            ]
        )
    ]
    row = row_of(files)
    assert row.ratio == pytest.approx(2.0)
    assert row.ratio_interval == pytest.approx((1.25, 2.5))
    assert column(cost_table(files), "vs PyTorch") == ["-", "2.00x [1.25, 2.50]"]
    assert column(summary(files), "Image vs PyTorch") == ["-", "2.00x"]


def test_ratio_skips_blocks_that_only_one_has() -> None:
    files = [
        result(
            [
                timed(cell(), [0.2, 0.9], [0, 1]),
                timed(cell(runtime="onnx"), [0.1, 0.1], [0, 2]),
            ]
        )
    ]
    assert row_of(files).ratio == pytest.approx(2.0)


@pytest.mark.parametrize(
    "other",
    [
        {"group": "another"},
        {"group": None},
    ],
)
def test_no_ratio_without_taking_turns(other) -> None:
    files = [result([timed(cell(), [0.2] * 6), timed(cell(runtime="onnx"), [0.1] * 6, **other)])]
    assert row_of(files).ratio is None
    assert any("have no ratio" in c for c in cost_table(files).caveats)


def test_no_ratio_across_files_even_if_groups_are_named_alike() -> None:
    files = [
        result([timed(cell(), [0.2] * 6)], path=""),
        result(
            [timed(cell(runtime="onnx"), [0.1] * 6)], path="", created_utc="2026-01-02T00:00:00Z"
        ),
    ]
    assert row_of(files).ratio is None
    assert speed_ratio(row_of(files), row_of(files, "torch")) is None


def test_ratio_falls_back_to_torch_at_the_same_precision() -> None:
    files = [
        result(
            [
                timed(cell(precision="fp16"), [0.2] * 6),
                timed(cell(runtime="onnx", precision="fp16"), [0.1] * 6),
            ]
        )
    ]
    baseline = row_of(files).ratio_baseline
    assert baseline is not None and baseline.setup == "torch fp16"
    assert any("torch fp16" in c for c in cost_table(files).caveats)


def test_torch_may_take_turns_in_several_groups() -> None:
    fast = cell(runtime="onnx", precision="int8")
    files = [
        result(
            [
                timed(cell(), [0.2] * 6, group="fp32"),
                timed(cell(runtime="onnx"), [0.1] * 6, group="fp32"),
                timed(cell(), [0.4] * 6, group="int8"),
                timed(fast, [0.1] * 6, group="int8"),
            ]
        )
    ]
    torch, full, quantised = merge(files)
    assert (full.ratio, quantised.ratio) == (pytest.approx(2.0), pytest.approx(4.0))
    assert torch.p50_s == 0.4
    ratio = speed_ratio(full, torch)
    assert ratio is not None and ratio[0] == pytest.approx(2.0)
    inverse = speed_ratio(torch, quantised)
    assert inverse is not None and inverse == (pytest.approx(0.25), pytest.approx((0.25, 0.25)))
    assert speed_ratio(full, quantised) is None


def test_newest_measurement_wins_per_pass() -> None:
    c = cell()
    older = result([timed(c, [0.2] * 6), memory(c, 500)], created_utc="2026-01-01T00:00:00Z")
    newer = result([timed(c, [0.1] * 6)], created_utc="2026-01-02T00:00:00Z", path="b.json")
    for files in ([older, newer], [newer, older]):
        (row,) = merge(files)
        assert row.p50_s == 0.1
        assert row.rss_peak_bytes == 500 * MIB


def test_environments_stay_apart() -> None:
    c, o = cell(), cell(runtime="onnx")
    here = result([timed(c, [0.2] * 6), timed(o, [0.1] * 6)])
    there = result(
        [timed(c, [0.02] * 6, env_id=OTHER.id)],
        environments=(OTHER,),
        path="b.json",
        created_utc="2026-01-02T00:00:00Z",
    )
    report = cost_table([there, here])
    assert column(report, "Env") == ["E1", "E1", "E2"]
    assert column(report, "vs PyTorch") == ["-", "2.00x [2.00, 2.00]", "-"]
    assert any("Mixed environments (E1 and E2)" in c for c in report.caveats)
    assert [label for label, _ in environments([there, here]).values()] == ["E1", "E2"]


def test_failed_rows_say_why() -> None:
    bad = cell(runtime="onnx", precision="int8")
    odd = cell(runtime="onnx", precision="bf16")
    report = cost_table(
        [
            result(
                [
                    timed(cell(), [0.2] * 6, stable=False),
                    broken(bad, "out of memory"),
                    broken(odd, "no bf16 here", "unsupported"),
                ]
            )
        ]
    )
    assert column(report, "Note") == ["unstable", "unsupported", "failed"]
    assert column(report, "Items/s")[1:] == ["-", "-"]
    assert any("time pass failed: out of memory" in c for c in report.caveats)
    assert any("time pass unsupported: no bf16 here" in c for c in report.caveats)
    assert any(c.startswith("Unstable") and "1 of 3" in c for c in report.caveats)


def test_only_failed_rows_still_make_tables() -> None:
    files = [result([broken(cell(), "boom")])]
    assert column(cost_table(files), "Note") == ["failed"]
    assert column(summary(files), "Note") == ["image failed"]
    assert cost_table(files).findings == ()


def test_memory_survives_a_failed_time_pass() -> None:
    c = cell()
    (row,) = merge([result([broken(c, "slow"), memory(c, 300)])])
    assert row.failed and row.rss_peak_bytes == 300 * MIB and row.p50_s is None


@pytest.mark.parametrize("samples", [[0.1, math.nan], [0.1, math.inf], [0.1, 0.0], []])
def test_impossible_samples_are_not_used(samples) -> None:
    files = [result([timed(cell(), samples), timed(cell(runtime="onnx"), [0.1] * 6)])]
    row = row_of(files, "torch")
    assert row.p50_s is None and row.problems
    assert row_of(files).ratio is None
    assert "nan" not in " ".join(" ".join(r) for r in cost_table(files).texts).lower()


@pytest.mark.parametrize("report", [cost_table, summary, accuracy_table])
@pytest.mark.parametrize("files", [[], [result()]])
def test_nothing_to_report(report, files) -> None:
    with pytest.raises(UsageError, match="clipperf profile"):
        report(files)


def test_scores_only() -> None:
    with pytest.raises(UsageError, match="clipperf profile"):
        cost_table([result(scores=[score(cell())])])
    with pytest.raises(UsageError, match="clipperf eval"):
        accuracy_table([result([timed(cell(), [0.1] * 6)])])


def test_summary_puts_towers_side_by_side() -> None:
    measurements = []
    for side, seconds, peak in (("image", 0.1, 300), ("text", 0.05, 200)):
        c = cell(side, batch=4)
        measurements += [timed(c, [seconds] * 6), memory(c, peak)]
    other = dataclasses.replace(ENVIRONMENT, id="env-c")
    scored = result(
        scores=[score(cell(batch=16), 0.6, env_id=other.id)],
        environments=(other,),
        kind="eval",
        path="b.json",
    )
    report = summary([result(measurements), scored])
    assert len(report.texts) == 1
    assert column(report, "Images/s") == ["40.0"]
    assert column(report, "Texts/s") == ["80.0"]
    assert column(report, "Disk MiB") == ["200"]
    assert column(report, "Image RAM MiB") == ["300"]
    assert column(report, "Text RAM MiB") == ["200"]
    assert column(report, "cifar10 top-1") == ["60.0 %"]
    assert any("another environment" in c for c in report.caveats)


@pytest.mark.parametrize(("side", "other"), [("image", "Text"), ("text", "Image")])
def test_summary_of_one_tower_has_no_columns_of_the_other(side: Side, other: str) -> None:
    c = cell(side, batch=4)
    report = summary([result([timed(c, [0.1] * 6), memory(c, 300)])])
    assert not [name for name in report.names if other in name]
    assert column(report, f"{side.capitalize()}s/s") == ["40.0"]
    assert column(report, "Disk MiB") == ["100"]
    assert any(f"Of the {side} tower alone" in caveat for caveat in report.caveats)


def test_summary_marks_unresolved_ratios() -> None:
    ours = [0.1, 0.1, 0.1, 0.1, 0.09, 0.11]
    files = [result([timed(cell(), [0.1] * 6), timed(cell(runtime="onnx"), ours)])]
    assert column(summary(files), "Image vs PyTorch") == ["-", "1.00x ≈"]


# --- accuracy ------------------------------------------------------------------------------


def against_baseline(value: float, difference: float, interval, **more):
    """A score of ONNX beside PyTorch's 0.6."""
    return score(
        cell(runtime="onnx", **more),
        value,
        baseline_runtime="torch",
        baseline_value=0.6,
        difference=difference,
        diff_ci95=interval,
        flips=20,
    )


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.0, 0.0), "equivalent"),
        ((-0.009, 0.002), "equivalent"),
        ((-0.02, 0.01), "too few samples"),
        ((-0.05, -0.02), "worse"),
        (None, "too few samples"),
    ],
)
def test_verdicts(interval, verdict) -> None:
    report = accuracy_table(
        [result(scores=[score(cell(), 0.6), against_baseline(0.59, -0.01, interval)])]
    )
    assert column(report, "Verdict") == ["baseline", verdict]
    assert column(report, "Score") == ["60.0 % [57.0, 63.0]", "59.0 % [56.0, 62.0]"]
    assert column(report, "Flips") == ["-", "20 (2.0 %)"]
    assert column(report, "Chance") == ["10.0 %", "10.0 %"]
    assert len(report.findings) == 1


def test_metrics_keep_their_order_and_findings_are_counted() -> None:
    scores = []
    for metric, difference in (("zeroshot top-1", -0.03), ("a recall@1", 0.0), ("recall@5", 0.0)):
        ends = (difference - 0.005, difference + 0.005)
        for own in (score(cell(), 0.6), against_baseline(0.6 + difference, difference, ends)):
            scores.append(dataclasses.replace(own, metric=metric))
    files = [result([timed(cell(), [0.1] * 6)], scores=scores)]
    report = accuracy_table(files)
    assert column(report, "Metric")[::2] == ["zeroshot top-1", "a recall@1", "recall@5"]
    assert report.findings == (
        "M::w on cpu: onnx fp32 loses accuracy in 1 of 3 scores (worst cifar10, zeroshot top-1: "
        "-3.0 [-3.5, -2.5] points over 1000 samples).",
    )
    assert column(summary(files), "cifar10 zeroshot top-1") == ["60.0 %"]


def test_random_weights_are_loud_and_found_nothing() -> None:
    marked = score(cell(), 0.1, random_weights=True)
    report = accuracy_table([result(scores=[marked])])
    assert column(report, "Verdict") == ["RANDOM WEIGHTS"]
    assert "(random weights)" in report.title
    assert report.caveats[0].startswith("RANDOM WEIGHTS")
    assert report.findings == ()


def test_nan_scores_are_not_printed() -> None:
    report = accuracy_table([result(scores=[score(cell(), math.nan)])])
    assert column(report, "Score") == ["-"]
    assert column(report, "Verdict") == ["not a number"]


def test_dataset_versions_are_told_apart() -> None:
    first, second = score(cell()), score(cell(), dataset_sha256="e" * 64)
    report = accuracy_table([result(scores=[first, second])])
    assert len(report.texts) == 2
    assert any("More than one version" in c for c in report.caveats)


# --- published -----------------------------------------------------------------------------


def test_published_beside_measured() -> None:
    model = "ViT-B-32::laion2b_s34b_b79k"
    measurements = []
    for side in ("image", "text"):
        for batch in (1, 8):
            measurements.append(memory(cell(side, batch=batch, model=model), 522, 10))
    lines = [BasicStatistics("ViT-B-32::laion2b-s34b-b79k", 577, 2.94, 1.40)]
    report = published_table([result(measurements)], lines)
    assert report is not None
    assert column(report, "Batch") == ["8"]
    assert column(report, "Disk MiB") == ["200"]
    assert column(report, "Published disk MiB") == ["577"]
    assert column(report, "Image RAM +GiB") == ["0.50"]
    assert column(report, "Published RAM +GiB") == ["2.94"]
    assert any("TITAN RTX" in c for c in report.caveats)


def test_random_weights_stand_beside_their_architecture() -> None:
    report = published_table(realistic(), PUBLISHED)
    assert report is not None
    assert set(column(report, "Published as")) == {"ViT-B-32::laion2b_e16"}
    assert published_table([result([memory(cell(), 100)])], PUBLISHED) is None


# --- findings ------------------------------------------------------------------------------


def speed(files) -> list[str]:
    """The speed findings of some files."""
    labels = {env_id: label for env_id, (label, _) in environments(files).items()}
    return findings.speed_findings(merge(files), labels)


def test_fastest_is_called_where_intervals_separate() -> None:
    measurements = []
    for batch in (1, 8):
        measurements.append(timed(cell(batch=batch), [0.2] * 6, group=f"g{batch}"))
        measurements.append(timed(cell(runtime="onnx", batch=batch), [0.1] * 6, group=f"g{batch}"))
    assert speed([result(measurements)]) == [
        "M::w, image tower on cpu: onnx fp32 is fastest at batches 1 and 8 "
        "(10.0 and 80.0 images/s)."
    ]


def test_gaps_under_ten_percent_are_not_called() -> None:
    files = [result([timed(cell(), [0.105] * 6), timed(cell(runtime="onnx"), [0.1] * 6)])]
    (sentence,) = speed(files)
    assert "no resolved difference between onnx fp32 and torch fp32" in sentence
    # Without pairs the intervals of the medians decide, under the same ten per cent.
    apart = [result([timed(cell(), [0.2] * 6, group=None), timed(cell(runtime="onnx"), [0.1] * 6)])]
    assert "onnx fp32 is fastest" in speed(apart)[0]


def test_findings_of_unstable_rows_say_so() -> None:
    slow = timed(cell(), [0.2] * 6, stable=False)
    assert speed([result([slow, timed(cell(runtime="onnx"), [0.1] * 6)])]) == [
        "M::w, image tower on cpu: onnx fp32 is fastest at batch 1 (10.0 images/s). "
        "Some of these rows are unstable."
    ]


def test_least_memory() -> None:
    rows = merge([result([memory(cell(), 300), memory(cell(runtime="onnx"), 100)])])
    assert findings.memory_findings(rows, {"env-a": "E1"}) == [
        "M::w on cpu, least peak RAM: image tower 100.0 MiB (onnx fp32, batch 1; torch fp32 "
        "300.0 MiB)."
    ]


def test_gib_column() -> None:
    from clipperf import units

    assert units.gib(GIB + GIB // 2) == "1.50"
    assert units.gib(None) == "-"
