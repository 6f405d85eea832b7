"""What is asked of a deployment: files, options, prices, accuracy, against answers by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from report_data import ENVIRONMENT, GIB, MIB, OTHER, cell, memory, result, score, timed
from typer.testing import CliRunner

from clipperf import cli
from clipperf.commands.sizing_options import solve_in_one_thread
from clipperf.errors import UsageError
from clipperf.nouns.result import ResultFile, Score
from clipperf.report.records import environments
from clipperf.report.sizing.asked import price, read, targets_of
from clipperf.report.sizing.front import front
from clipperf.report.sizing.prices import kinds_of
from clipperf.report.sizing.quality import together
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.tables import has_front, sizing_tables
from clipperf.report.sizing.types import Deployment, Quality, Sizing, Targets
from clipperf.serialize import to_json
from clipperf.system.child import THREAD_VARIABLES
from clipperf.system.store import SCHEMA_VERSION

# --- a file and options --------------------------------------------------------------------

FILE = """
images_per_s = 500
texts_per_s = 2000.5
slo_ms = 50
percentile = 95
ram_gb = 16
disk_gb = 0.5
max_loss = 1
min_accuracy = 60
accuracy_on = "coco:recall@1"
utilisation = 0.5
spare = 2
[price]
E1 = 0.4
"RTX 4090" = 1
"""


def test_a_file_field_by_field() -> None:
    assert targets_of({}, read(FILE, "t.toml")) == Targets(
        images_per_s=500.0,
        texts_per_s=2000.5,
        slo_s=0.05,
        ram_bytes=16 * GIB,
        utilisation=0.5,
        percentile=0.95,
        disk_bytes=GIB // 2,
        min_accuracy=0.6,
        max_loss=0.01,
        accuracy_on="coco:recall@1",
        spare=2,
        prices=(("E1", 0.4), ("RTX 4090", 1.0)),
    )
    assert targets_of({}, {}) == Targets(0.0, 0.0)


def test_an_empty_name_of_a_dataset_is_no_option() -> None:
    with pytest.raises(UsageError, match="--accuracy-on is empty: give a dataset"):
        targets_of({"images_per_s": 1.0, "accuracy_on": ""}, {})


def test_options_come_before_the_file() -> None:
    given = {"slo_ms": 20.0, "spare": None, "price": [("E1", 0.9), ("", 2.0)]}
    found = targets_of(given, read(FILE, "t.toml"))
    assert (found.slo_s, found.spare, found.images_per_s) == (0.02, 2, 500.0)
    assert found.prices == (("E1", 0.9), ("RTX 4090", 1.0), ("", 2.0))
    assert read("price = 0.5", "t")["price"] == [("", 0.5)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images = 5", r"t\.toml: 'images' is no target: there is images_per_s, "),
        ("slo_ms = 0", r"t\.toml: slo_ms 0: give a number above 0"),
        ("slo_ms = '50'", r"slo_ms '50': give a number"),
        ("slo_ms = nan", "slo_ms nan: give"),
        ("spare = 1.5", "spare 1.5: give a whole number"),
        ("spare = true", "spare True: give a whole number"),
        ("percentile = 100", "percentile 100: give a number from 50 to 99.96"),
        ("percentile = 99.97", "from 50 to 99.96"),
        (f"slo_ms = 1{400 * '0'}", "slo_ms of 20 digits and more: give a number above 0, below"),
        (f"spare = 0x1{9000 * '0'}", "spare of 20 digits and more: give a whole number"),
        (f"slo_ms = 1{5000 * '0'}", "not TOML that can be read"),
        ("min_accuracy = 0.6", "min_accuracy 0.6: give percent above 1, such as 60"),
        ("accuracy_on = 3", "accuracy_on: give a text"),
        ('accuracy_on = ""', "accuracy_on: give a text"),
        ("price = 'much'", "price '': give a number above 0 an hour"),
        ("[price]\nE1 = -1", "price 'E1': give a number above 0"),
        ("images_per_s = 5e-324", "a number from 0 to a billion, and none below 1e-9 but 0"),
        ("ram_gb = 1e-10", "ram_gb 1e-10: give a number above 0"),
        ("images_per_s = ", "not TOML that can be read"),
    ],
)
def test_a_file_that_cannot_be_meant(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(text, "t.toml")


def test_numbers_of_options_name_the_option() -> None:
    with pytest.raises(UsageError, match=r"--slo-ms -1: give a number above 0"):
        targets_of({"slo_ms": -1}, {})
    with pytest.raises(UsageError, match=r"--spare -1: give a whole number from 0 to"):
        targets_of({"spare": -1}, {})
    assert price("E1=0.4") == ("E1", 0.4) and price("2") == ("", 2.0)
    assert price("RTX 4090 = 1e1") == ("RTX 4090", 10.0)
    for text in ("E1=", "=3", "E1=x", "E1=0", "E1=inf", ""):
        with pytest.raises(UsageError, match="KIND=PRICE"):
            price(text)


# --- kinds of machines ---------------------------------------------------------------------


def both(seconds: float = 0.1, env: Any = ENVIRONMENT, **more: Any) -> list[Any]:
    c = cell(**more)
    return [timed(c, [seconds] * 6, env_id=env.id), memory(c, 100, env_id=env.id)]


def two_kinds() -> list[ResultFile]:
    here = result([*both(), *both(0.1, side="text")])
    rows = [*both(0.02, OTHER), *both(0.1, OTHER, side="text")]
    there = result(rows, environments=(OTHER,), path="b", created_utc="2026-01-02T00:00:00Z")
    return [here, there]


def test_a_machine_by_label_id_and_name() -> None:
    known = environments(two_kinds())
    for name, found in {
        "E1": "env-a",
        "e2": "env-b",
        "env-b": "env-b",
        "gpu test": "env-b",
        "GPU-Test": "env-b",
        "xeon": "env-a",
        "Other": "env-b",
    }.items():
        assert kinds_of(name, known) == [found]
    with pytest.raises(UsageError, match=r"'4090': there is E1 \(Xeon Test\) and E2 \(GPU Test\)"):
        kinds_of("4090", known)
    with pytest.raises(UsageError, match="'': there is"):
        kinds_of("", known)
    with pytest.raises(UsageError, match="test is the machine of E1 and E2"):
        kinds_of("test", known)
    # Of one machine that was measured with two versions both are meant.
    newer = dataclasses.replace(ENVIRONMENT, id="c", versions={})
    assert kinds_of("xeon", {**known, "c": ("E3", newer)}) == ["env-a", "c"]


def test_prices_rank_across_machines_and_place_each_tower_where_it_is_cheap() -> None:
    # Of 8 cores E1 takes 4 replicas of 2 threads, E2 of 4 cores takes 2. 70 images/s: 10 replicas
    # on E1 (3 machines), 2 on E2 (1 machine). 70 texts/s: 10 replicas, 3 of E1 or 5 of E2.
    prices = (("E1", 1.0), ("E2", 2.0))
    sizing = size(two_kinds(), Targets(70, 70, prices=prices))
    figures = [(p.rank, p.kinds, p.machines, p.per_month) for p in sizing.plans]
    assert figures == [
        # Images on one E2, texts on three E1: 2 + 3 an hour, 730 hours.
        (1, (("env-b", 1), ("env-a", 3)), 4, 3650.0),
        # All on E1: 20 replicas on 5 machines.
        (2, (("env-a", 5),), 5, 3650.0),
        # All on E2: 12 replicas, 2 a machine.
        (3, (("env-b", 6),), 6, 8760.0),
    ]
    # 5 an hour for 140 embeddings a second: 5 / 3600 / 140 a piece.
    assert sizing.plans[0].per_million == pytest.approx(5 / 3600 / 140 * 1e6)
    tables = sizing_tables(sizing, environments(two_kinds()))
    assert "1 x E2 + 3 x E1" in tables[0].texts[0]
    assert "3650 a month, 9.92 a million embeddings" in tables[0].findings[0]
    assert not any("Ranks count" in c for c in tables[0].caveats)


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        ((("E1", 1.0),), r"no price for E2 \(GPU Test\): add --price E2=PER_HOUR"),
        ((("", 1.0),), r"--price 1 is of which machine\? .* give --price E1=1"),
        ((("E9", 1.0),), "no machine of these results is 'E9'"),
        ((("E1", 1.0), ("xeon", 2.0), ("E2", 1.0)), "E1 has two prices: 1 and 2"),
        ((("E1", 0.0),), "the price of E1 must be positive"),
    ],
)
def test_prices_that_are_missing_or_nobodys(prices: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        size(two_kinds(), Targets(1, 0, prices=prices))


# --- spare replicas, disk, intervals -------------------------------------------------------


def test_spare_replicas_take_machines_and_carry_more() -> None:
    # 21 / (10 x 0.7) = 3 replicas, and 2: five on machines of four.
    (plan,) = size([result(both())], Targets(21, 0, spare=2)).plans
    assert plan.image is not None and plan.image.replicas == 5
    assert plan.machines == 2 and plan.carries == pytest.approx(5 / 3)


def test_disk_of_each_tower_and_of_both() -> None:
    files = [result([*both(), *both(0.1, side="text")])]  # 100 MiB each

    def sized(mib: int) -> Any:
        return size(files, Targets(1, 1, disk_bytes=mib * MIB))

    assert len(sized(200).plans) == 1
    two = sized(199)
    assert two.plans == () and two.rejected == ()
    assert two.unmet == ("M::w: no two towers pass together (disk breaks 1 of 1).",)
    (image, _) = sized(99).rejected
    assert image.broken == ("disk: the tower takes 100.0 MiB, 1.0 MiB over 99.0 MiB",)


def test_intervals_reach_machines_and_costs() -> None:
    # Blocks of 0.1 and 0.3 s, three each: 0.2 +- 2.571 x 0.10954 / sqrt(6) = 0.2 +- 0.11498 s.
    rows = [timed(cell(), [0.1, 0.3] * 3), memory(cell(), 100)]
    (plan,) = size([result(rows)], Targets(42, 0, prices=(("", 0.5),))).plans
    assert plan.image is not None and plan.image.rate_interval is not None
    assert plan.image.rate_interval == pytest.approx((1 / 0.31498, 1 / 0.08502), rel=1e-3)
    # 42 / (5 x 0.7) = 12; 42 x 0.08502 / 0.7 = 5.1 and 42 x 0.31498 / 0.7 = 18.9.
    assert (plan.image.replicas, plan.image.replicas_interval) == (12, (6, 19))
    assert (plan.machines, plan.machines_interval) == (3, (2, 5))
    assert plan.per_month == 3 * 0.5 * 730
    assert plan.per_month_interval == (2 * 0.5 * 730, 5 * 0.5 * 730)


def test_an_end_that_nothing_bounds_is_marked() -> None:
    """Blocks of 0.1 and 0.5 s: 0.3 +- 2.571 x 0.21909 / sqrt(6) = 0.3 +- 0.22996 s, and of 0.02
    and 0.58 s +- 0.322 s, whose interval reaches below 0: nothing bounds its rate from above."""
    rows = [timed(cell(), [0.02, 0.58] * 3), memory(cell(), 100)]
    files = [result(rows)]
    sizing = size(files, Targets(7, 0, prices=(("", 1.0),)))
    (plan,) = sizing.plans
    assert plan.image is not None
    # 7 / (3.333 x 0.7) = 3; the slow end is 1 / 0.62193 a second: 7 x 0.62193 / 0.7 = 6.2.
    assert (plan.image.replicas, plan.image.replicas_interval) == (3, (1, 7))
    assert plan.image.held_interval is not None and plan.image.held_interval[1] == math.inf
    assert any("one end of its interval is open" in note for note in plan.notes)
    # With an SLO of 0.7 s the slow end, runs of up to 1.2 s, holds nothing at any rate.
    slow = size(files, Targets(0.01, 0, slo_s=0.7, percentile=0.9, prices=(("", 1.0),)))
    (plan,) = slow.plans
    assert plan.image is not None and plan.image.held_interval is not None
    assert plan.image.held_interval[0] == 0 and plan.image.replicas_interval == (1, None)
    assert plan.machines_interval == (1, None)
    assert plan.per_month_interval == (730.0, math.inf)
    (table, *_) = sizing_tables(slow, environments(files))
    at = table.names.index("Machines")
    assert table.texts[0][at] == "1 [1, ∞]"
    assert table.texts[0][table.names.index("Cost a month")] == "730 [730, ∞]"


# --- accuracy ------------------------------------------------------------------------------


def judged(precision: str, loss: float, low: float, high: float, **more: Any) -> Score:
    c = cell(runtime="onnx", precision=precision)
    return score(
        c, 0.6 - loss, baseline_value=0.6, difference=-loss, diff_ci95=(-high, -low), **more
    )


SCORES = (
    score(cell(), 0.6),
    judged("int8", 0.008, 0.004, 0.012),
    judged("int8w", 0.005, 0.001, 0.009),
    judged("fp16", 0.0, -0.001, 0.001),
)


def evaluated(*scores: Score) -> list[ResultFile]:
    rows = [*both(), *both(0.1, side="text")]
    for precision, seconds in (("int8", 0.05), ("int8w", 0.06), ("fp16", 0.07)):
        for side in ("image", "text"):
            rows += both(seconds, side=side, runtime="onnx", precision=precision)
    return [result(rows, scores or SCORES)]


def test_a_loss_must_keep_to_its_limit_with_all_its_interval() -> None:
    sizing = size(evaluated(), Targets(7, 0, max_loss=0.01))
    assert {o.cell.precision for o in sizing.options} == {"fp32", "int8w", "fp16"}
    (lost,) = sizing.rejected
    assert lost.broken == (
        "accuracy: loses 0.80 points on cifar10, top-1, by its interval up to 1.20, over 1: more "
        "samples may settle it",
    )
    sizing = size(evaluated(), Targets(7, 0, max_loss=0.006))
    assert {o.cell.precision: o.broken for o in sizing.rejected} == {
        "int8": ("accuracy: loses 0.80 points on cifar10, top-1, 0.20 over 0.6",),
        "int8w": (
            "accuracy: loses 0.50 points on cifar10, top-1, by its interval up to 0.90, over 0.6: "
            "more samples may settle it",
        ),
    }


def test_losses_of_two_towers_add_up() -> None:
    # int8 and int8w lose 0.8 and 0.5 points: 1.3 together, by their intervals up to 2.1.
    ours, theirs = (
        Quality("d", "m", 0.592, None, 0.008, (0.004, 0.012)),
        Quality("d", "m", 0.595, None, 0.005, (-0.001, 0.009)),
    )
    assert together(ours, theirs, alike=True) == ours
    found = together(ours, theirs, alike=False)
    assert found is not None and found.added
    assert (found.value, found.loss) == (pytest.approx(0.587), pytest.approx(0.013))
    assert found.loss_interval == (pytest.approx(0.003), pytest.approx(0.021))
    assert together(ours, None, alike=False) is None
    # int8w (0.9 by its interval) keeps to one point alone and beside fp16 (0.1): not beside itself
    # in another runtime, and int8 never does.
    sizing = size(evaluated(), Targets(7, 7, max_loss=0.01))
    (plan,) = sizing.plans
    assert plan.quality is not None and plan.quality.loss is not None
    assert all(p.quality is not None and p.quality.loss_interval for p in sizing.front)
    assert all(p.quality.loss_interval[1] <= 0.0100001 for p in sizing.front)  # type: ignore


def test_a_floor_is_held_against_the_value() -> None:
    sizing = size(evaluated(), Targets(7, 0, min_accuracy=0.594))
    (lost,) = sizing.rejected
    assert lost.broken == ("accuracy: 59.2 % on cifar10, top-1 is -0.2 points from 59.4 %",)


def test_full_precision_has_pytorchs_accuracy_and_others_none() -> None:
    files = [result([*both(runtime="onnx"), *both(runtime="onnx", precision="bf16")], SCORES)]
    sizing = size(files, Targets(7, 0, max_loss=0.01))
    (kept,), (unknown,) = sizing.options, sizing.rejected
    assert kept.quality is not None and (kept.quality.value, kept.quality.loss) == (0.6, 0.0)
    assert unknown.broken == ("accuracy: not measured on cifar10, top-1, run `clipperf eval`",)


def test_which_scores_count() -> None:
    more = (*SCORES, score(cell(), 0.3, dataset="coco"), score(cell(), 0.4, metric="top-5"))
    files = evaluated(*more)
    with pytest.raises(UsageError, match=r"of which dataset.* cifar10 and coco: add --accuracy-on"):
        size(files, Targets(7, 0, max_loss=0.01))
    on = Targets(7, 0, min_accuracy=0.2, accuracy_on="coco")
    assert {o.cell.precision for o in size(files, on).options} == {"fp32"}
    with pytest.raises(UsageError, match="'flowers': these results hold scores on"):
        size(files, dataclasses.replace(on, accuracy_on="flowers"))
    with pytest.raises(UsageError, match="of cifar10 there is top-1 and top-5"):
        size(files, dataclasses.replace(on, accuracy_on="cifar10:top-9"))
    with pytest.raises(UsageError, match="hold no scores: run `clipperf eval"):
        size([result(both())], Targets(7, 0, max_loss=0.01))


def test_an_accuracy_of_whole_percents_is_reached_exactly() -> None:
    """57 x 0.01 is more than 0.57, of which 0.57 would fall short."""
    targets = targets_of({"images_per_s": 7, "min_accuracy": 57}, {})
    assert targets.min_accuracy == 0.57
    files = [result(both(), (score(cell(), 0.57),))]
    assert len(size(files, targets).options) == 1
    by_product = dataclasses.replace(targets, min_accuracy=57 * 0.01)
    assert len(size(files, by_product).options) == 1


def test_scores_of_one_content_count() -> None:
    """int8 was scored on 100 samples of other content, fp32 on 1000 of its own."""
    few = judged("int8", -0.2, -0.3, -0.1, n=100, dataset_sha256="e" * 64)
    files = evaluated(SCORES[0], few)
    sizing = size(files, Targets(7, 0, min_accuracy=0.5))
    assert {o.cell.precision for o in sizing.options} == {"fp32"}
    assert any("hold 2 contents of cifar10" in told for told in sizing.assumptions)
    # Of as many samples the newer content counts.
    newer = dataclasses.replace(few, n=1000)
    assert {
        o.cell.precision
        for o in size(evaluated(SCORES[0], newer), Targets(7, 0, min_accuracy=0.5)).options
    } == {"int8"}


# --- what no other beats -------------------------------------------------------------------


def plan(cost: float | None, value: float | None, carries: float, memory: int | None) -> Deployment:
    quality = None if value is None else Quality("d", "m", value)
    return Deployment(
        0, "e", "m", False, None, None, 1, memory, None, None,
        kinds=(("e", 1),), carries=carries, per_month=cost, quality=quality,
    )  # fmt: skip


def test_the_front_by_hand() -> None:
    best = plan(10, 0.6, 1.0, 100)
    twin = plan(10, 0.6, 1.0, 100)  # as good in all: neither beats the other
    cheap = plan(5, 0.5, 1.0, 100)
    strong = plan(10, 0.6, 2.0, 200)
    plans = [
        strong,
        plan(10, 0.6, 1.0, 101),  # more memory than best, no more of anything
        best,
        twin,
        plan(11, None, 2.0, None),  # nothing known: beaten by strong
        cheap,
        plan(5, 0.49, 0.9, 100),
    ]
    assert front(plans) == [strong, best, twin, cheap]


def test_without_prices_only_machines_of_one_kind_are_compared() -> None:
    one, other = plan(None, 0.6, 1.0, 100), plan(None, 0.5, 0.5, 200)
    assert front([one, other]) == [one]
    elsewhere = dataclasses.replace(other, kinds=(("f", 1),))
    assert front([one, elsewhere]) == [one, elsewhere]


def test_with_prices_the_front_is_shown_where_its_members_are_on_different_machines() -> None:
    plans = (plan(10, 0.6, 1.0, 100), dataclasses.replace(plan(5, 0.5, 1.0, 100), env_id="f"))
    sizing = Sizing(Targets(1, 0), plans, (), (), (), (), front=plans)
    assert has_front(sizing)
    assert not has_front(dataclasses.replace(sizing, front=plans[:1]))
    bare = tuple(dataclasses.replace(p, per_month=None) for p in plans)
    assert not has_front(dataclasses.replace(sizing, front=bare))


# --- the command ---------------------------------------------------------------------------


def run(*words: object) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_command_reads_a_file(tmp_path: Path) -> None:
    stored = tmp_path / "r.json"
    whole = dataclasses.replace(result(both()), schema_version=SCHEMA_VERSION)
    stored.write_text(json.dumps(to_json(whole)))
    asked = tmp_path / "t.toml"
    asked.write_text("images_per_s = 21\nspare = 1\nprice = 0.5\n")
    done = run("size", stored, "--targets", asked, "--json")
    assert done.exit_code == 0, done.output
    sizing = json.loads(done.stdout)
    assert sizing["plans"][0]["image"]["replicas"] == 4
    assert sizing["plans"][0]["per_month"] == 365.0
    done = run("size", stored, "--targets", asked, "--spare", 2, "--json")
    assert json.loads(done.stdout)["plans"][0]["image"]["replicas"] == 5
    done = run("report", stored, "--targets", asked, "--format", "md")
    assert "365 a month" in done.stdout and done.exit_code == 0
    (tmp_path / "bytes").write_bytes(b"slo_ms = 5 # \xff")
    (tmp_path / "large").write_bytes(b"#" * 1_000_001)
    for path, words in (
        (tmp_path / "none", f"--targets {tmp_path / 'none'} does not exist"),
        (tmp_path, "it is a folder, not a regular file"),
        (tmp_path / "bytes", "is no text: 'utf-8' codec"),
        (tmp_path / "large", "the limit is"),
    ):
        done = run("size", stored, "--targets", path)
        assert isinstance(done.exception, UsageError) and words in str(done.exception)


def test_a_report_refuses_limits_without_a_rate(tmp_path: Path) -> None:
    stored = tmp_path / "r.json"
    whole = dataclasses.replace(result(both()), schema_version=SCHEMA_VERSION)
    stored.write_text(json.dumps(to_json(whole)))
    for words in (("--price", "1"), ("--slo-ms", "50")):
        done = run("report", stored, *words)
        assert isinstance(done.exception, UsageError)
        assert "nothing to size: give a target" in str(done.exception)


def test_speeds_of_models_as_json() -> None:
    done = run("models", "--search", "ViT-H-14", "--speeds", "--json")
    lines = json.loads(done.stdout)
    assert {line["hardware"] for line in lines} >= {"NVIDIA GeForce RTX 4090", "NVIDIA TITAN RTX"}
    assert all(line["per_s"] is None or line["per_s"] > 0 for line in lines)


def test_a_kind_with_two_prices_is_refused() -> None:
    with pytest.raises(UsageError, match="E1 has two prices: 1 and 2"):
        targets_of({"price": [("E1", 1.0), ("E1", 2.0)]}, {})
    with pytest.raises(UsageError, match="a machine has two prices: 1 and 2"):
        targets_of({"price": [("", 1.0), ("", 2.0)]}, {})
    assert targets_of({"price": [("E1", 1.0), ("E1", 1.0)]}, {}).prices == (("E1", 1.0),)


def test_a_percentile_binds_nothing_without_a_bound() -> None:
    with pytest.raises(UsageError, match="--percentile 90 changes nothing without --slo-ms"):
        targets_of({"percentile": 90.0, "slo_ms": None}, {})
    with pytest.raises(UsageError, match="--percentile 95 changes nothing"):
        targets_of({"percentile": None}, {"percentile": 95})
    assert targets_of({"percentile": 90.0}, {"slo_ms": 20}).percentile == pytest.approx(0.9)


def test_one_thread_solves_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "OPENBLAS_NUM_THREADS"
    for variable in THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    solve_in_one_thread()  # numpy is here, and reads them no more
    assert name not in os.environ
    modules = {key: module for key, module in sys.modules.items() if key != "numpy"}
    monkeypatch.setattr(sys, "modules", modules)
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3"})
    solve_in_one_thread()
    assert os.environ == {"OMP_NUM_THREADS": "3"}
    monkeypatch.setattr(os, "environ", {})
    solve_in_one_thread()
    assert os.environ == dict.fromkeys(THREAD_VARIABLES, "1")
