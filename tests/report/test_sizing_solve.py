"""What a sizing chooses, what it says, and its tables, field by field."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from report_data import ENVIRONMENT, GIB, MIB, OTHER, cell, memory, result, score, timed

from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Measurement, ResultFile, Score
from clipperf.report.records import Row, environments, merge
from clipperf.report.sizing.held import longest_texts, tail_latency
from clipperf.report.sizing.options import load_of
from clipperf.report.sizing.packing import Machine
from clipperf.report.sizing.solve import machine_of, size
from clipperf.report.sizing.tables import sizing_tables, targets_text
from clipperf.report.sizing.types import Deployment, Option, Sizing, Targets, check


def both(c: Cell, seconds: float, peak_mib: int = 100, **more: Any) -> list[Measurement]:
    return [timed(c, [seconds] * 6, **more), memory(c, peak_mib)]


def on_machine(cores: int, ram_gib: int, *rows: Measurement, **more: Any) -> ResultFile:
    machine = dataclasses.replace(ENVIRONMENT, cores=cores, ram_bytes=ram_gib * GIB)
    return result(rows, environments=(machine,), **more)


# --- targets -------------------------------------------------------------------------------


def test_targets_by_default() -> None:
    targets = Targets(3, 5)
    assert (targets.of("image"), targets.of("text"), targets.utilisation) == (3, 5, 0.7)
    assert (targets.slo_s, targets.ram_bytes, targets.vram_bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"texts_per_s": -0.1}, "not negative"),
        ({"texts_per_s": math.inf}, "finite"),
        ({"images_per_s": 0.0, "texts_per_s": 0.0}, "nothing to size"),
        ({"utilisation": 0.0}, r"\(0, 1\], not 0.0"),
        ({"utilisation": 1.01}, "utilisation"),
        ({"utilisation": math.nan}, "utilisation"),
        ({"slo_s": 0.0}, "the SLO must be positive, not 0.0"),
        ({"slo_s": math.inf}, "the SLO must be positive"),
        ({"ram_bytes": 0}, "the RAM budget must be positive, not 0"),
        ({"vram_bytes": -1}, "the VRAM budget must be positive, not -1"),
    ],
)
def test_targets_that_cannot_be_meant(changed: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(dataclasses.replace(Targets(1.0, 1.0), **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"images_per_s": 0.0},
        {"texts_per_s": 0.0},
        {"utilisation": 1.0},
        {"utilisation": 0.01},
        {"slo_s": 0.001},
        {"ram_bytes": 1, "vram_bytes": 1},
    ],
)
def test_targets_that_can(changed: dict[str, float]) -> None:
    check(dataclasses.replace(Targets(1.0, 1.0), **changed))  # type: ignore[arg-type]


# --- rows and machines ---------------------------------------------------------------------


def test_a_machine_is_the_measured_one_within_the_budget() -> None:
    gpu = dataclasses.replace(OTHER, cores=4, ram_bytes=16 * GIB, vram_bytes=8 * GIB)
    assert machine_of(gpu, Targets(1, 1)) == Machine(4, 16 * GIB, 8 * GIB)
    budget = Targets(1, 1, ram_bytes=GIB, vram_bytes=2 * GIB)
    assert machine_of(gpu, budget) == Machine(4, GIB, 2 * GIB)
    assert machine_of(None, budget) == Machine(None, GIB, 2 * GIB)
    assert machine_of(None, Targets(1, 1)) == Machine(None, None, None)


def test_the_highest_quantile_that_is_known() -> None:
    row = Row(cell(), "env-a", False, p90_s=0.1, p95_s=0.2, p99_s=0.3, max_s=0.4)
    told = []
    for name in ("p99_s", "p95_s", "p90_s", "max_s"):
        told.append(tail_latency(row))
        row = dataclasses.replace(row, **{name: None})
    assert told == [(0.3, "p99"), (0.2, "p95"), (0.1, "p90"), (0.4, "max")]
    assert tail_latency(row) == (None, None)


def test_the_longest_texts_of_each_configuration() -> None:
    def rows(*tokens: int | None, **more: Any) -> list[Row]:
        return [Row(cell("text", tokens=n, **more), "env-a", False) for n in tokens]

    kept = longest_texts([*rows(8, 77, 16), *rows(16, 8, runtime="onnx"), *rows(None, 8, batch=2)])
    assert [(r.cell.runtime, r.cell.batch, r.cell.tokens) for r in kept] == [
        ("torch", 1, 77),
        ("onnx", 1, 16),
        ("torch", 2, 8),
    ]
    (image,) = longest_texts([Row(cell(), "env-a", False)])
    assert image.cell.tokens is None
    there = [dataclasses.replace(r, env_id="env-b") for r in rows(8)]
    assert len(longest_texts([*rows(77), *there])) == 2
    # Of equal ones the first stays.
    first, second = rows(77)[0], dataclasses.replace(rows(77)[0], source=1)
    assert longest_texts([first, second]) == [first]


def test_an_option_says_what_a_row_does_against_the_targets() -> None:
    c = cell(batch=8, streams=2, device="cuda")
    rows = [
        timed(c, [0.5, 0.25, 0.5, 0.5, 1.0, 0.25], stable=False, random_weights=True),
        memory(c, 1024, vram_peak_bytes=2 * GIB),
    ]
    (option,) = size([on_machine(8, 16, *rows)], Targets(112, 0)).options
    # Two streams of 8 in half a second on average: 32 images/s, of which 70 % are planned for.
    assert option == Option(
        cell=c,
        env_id="env-a",
        random_weights=True,
        unstable=True,
        rate_per_s=32.0,
        latency_s=1.0,
        latency_quantile="max",
        rss_peak_bytes=GIB,
        vram_peak_bytes=2 * GIB,
        load=112 / (32 * 0.7),
        replicas=5,
        per_machine=1,
        held_per_s=32.0,
        rate_interval=option.rate_interval,
        held_interval=option.rate_interval,
        replicas_interval=option.replicas_interval,
        disk_bytes=100 * MIB,
    )
    # Six blocks of half a second on average, of which 0.274 is the standard deviation: Student's
    # t of five degrees is 2.571, so 0.5 +- 0.287 s for 16 images, and 3 to 11 replicas.
    assert option.rate_interval == pytest.approx((16 / 0.7874, 16 / 0.2126), rel=1e-3)
    assert option.replicas_interval == (3, 8)
    load = load_of(option)
    assert dataclasses.astuple(load) == (2, GIB, 2 * GIB, True, 5, 112 / (32 * 0.7), 1.0, None)
    bare = dataclasses.replace(
        option,
        cell=cell(threads=3),
        rss_peak_bytes=None,
        vram_peak_bytes=None,
        replicas=None,
        load=None,
        latency_s=None,
    )
    assert dataclasses.astuple(load_of(bare)) == (3, 0, 0, False, 0, 0.0, 0.0, None)


def test_stable_rows_and_rows_that_do_not_say() -> None:
    for stable, unstable in ((True, False), (None, False), (False, True)):
        (option,) = size([result(both(cell(), 0.1, stable=stable))], Targets(1, 0)).options
        assert option.unstable is unstable


def test_at_least_one_replica_and_a_slack_for_binary_fractions_alone() -> None:
    # 10 images/s x 0.7 a replica.
    for target, replicas in ((1e-12, 1), (0.001, 1), (7.0, 1), (7.0001, 2), (14.0, 2), (21.0, 3)):
        (option,) = size([result(both(cell(), 0.1))], Targets(target, 0)).options
        assert option.replicas == replicas


# --- limits --------------------------------------------------------------------------------


def test_limits_are_kept_when_they_are_just_reached() -> None:
    rows = both(cell(), 0.25, 1024)
    machine = on_machine(2, 16, *rows)
    just = Targets(1, 0, slo_s=0.25, ram_bytes=GIB)
    assert size([machine], just).rejected == ()
    for changed, words in (
        ({"slo_s": 0.2499}, "SLO: max 250 ms is 100 us over 250 ms"),
        (
            {"ram_bytes": GIB - 1024},
            "RAM: one replica peaks at 1.00 GiB, 1.0 KiB over 1024.0 MiB",
        ),
    ):
        (option,) = size([machine], dataclasses.replace(just, **changed)).rejected
        assert option.broken == (words,)
        assert (option.replicas, option.per_machine) == (None, None)


def test_vram_limits_what_runs_on_a_gpu() -> None:
    def rejected(device: str, vram: int | None, **budget: int) -> tuple[str, ...]:
        c = cell(device=device)
        rows = [timed(c, [0.1] * 6), memory(c, 100, vram_peak_bytes=vram)]
        sizing = size([on_machine(8, 16, *rows)], Targets(1, 0, **budget))
        return sizing.rejected[0].broken if sizing.rejected else ()

    assert rejected("cuda", 2 * GIB, vram_bytes=2 * GIB) == ()
    assert rejected("cuda", 2 * GIB, vram_bytes=GIB) == (
        "VRAM: one replica peaks at 2.00 GiB, 1.00 GiB over 1.00 GiB",
    )
    assert rejected("cuda", None, vram_bytes=GIB) == (
        "VRAM: not measured, so the budget cannot be checked",
    )
    # Not asked for, and not known of the machine.
    assert rejected("cuda", None) == rejected("cuda", 2 * GIB) == ()
    # Of no concern on a CPU.
    for device in ("cpu", "cpu:1"):
        assert rejected(device, 2 * GIB, vram_bytes=GIB) == ()
        assert rejected(device, None, vram_bytes=GIB) == ()


def test_a_machine_s_own_memory_is_a_limit_but_no_question() -> None:
    """Without a budget too large a replica is refused, and one that was not measured is not."""
    gpu = dataclasses.replace(ENVIRONMENT, ram_bytes=16 * GIB, vram_bytes=8 * GIB)
    c = cell(device="cuda")

    def broken(ram_gib: int | None, vram_gib: int | None) -> tuple[str, ...]:
        peaks = {"rss_peak_bytes": ram_gib, "vram_peak_bytes": vram_gib}
        known = {name: value and value * GIB for name, value in peaks.items()}
        held = dataclasses.replace(memory(c, 1), **known)
        sizing = size([result([timed(c, [0.1] * 6), held], environments=(gpu,))], Targets(1, 0))
        return sizing.rejected[0].broken if sizing.rejected else ()

    assert broken(16, 8) == broken(None, None) == ()
    assert broken(17, 8) == ("RAM: one replica peaks at 17.00 GiB, 1.00 GiB over 16.00 GiB",)
    assert broken(16, 9) == ("VRAM: one replica peaks at 9.00 GiB, 1.00 GiB over 8.00 GiB",)


def test_all_that_is_broken_is_told() -> None:
    c = cell(threads=4)
    rows = [timed(c, [0.1] * 6), dataclasses.replace(memory(c, 100), status="failed", error="no")]
    (option,) = size([on_machine(2, 16, *rows)], Targets(1, 0, slo_s=0.05)).rejected
    assert option.broken == (
        "memory pass failed: no",
        "SLO: max 100 ms is 50.0 ms over 50.0 ms",
        "cores: 4 threads are 2 more than the machine's 2",
    )
    (option,) = size([on_machine(4, 16, *both(c, 0.1))], Targets(1, 0)).options
    assert option.per_machine == 1


def test_an_unknown_machine_limits_nothing() -> None:
    sizing = size([result(both(cell(threads=64), 0.1, 10**6), environments=())], Targets(70, 0))
    (plan,) = sizing.plans
    assert plan.image is not None and plan.image.per_machine is None
    assert (plan.machines, plan.headroom_bytes) == (1, None)
    assert plan.memory_bytes == plan.fullest_bytes == 10**7 * MIB


# --- which is chosen -----------------------------------------------------------------------


def chosen(*rows: Measurement, images: float = 21.0, texts: float = 0.0) -> Deployment:
    (plan,) = size([on_machine(8, 16, *rows)], Targets(images, texts)).plans
    return plan


def test_the_fewest_machines_then_memory_then_replicas_then_names() -> None:
    def named(plan: Deployment) -> list[str]:
        return [f"{o.cell.runtime} {o.cell.threads}" for o in plan.towers]

    fast, light = cell(runtime="onnx", threads=8), cell(runtime="trt")
    # 3 replicas of 100 MiB on one machine, or 3 of 10 MiB on three.
    assert named(chosen(*both(light, 0.1, 100), *both(fast, 0.1, 10))) == ["trt 2"]
    # One machine both: 3 x 100 MiB, or 1 x 299 MiB.
    assert named(chosen(*both(light, 0.1, 100), *both(fast, 0.01, 299))) == ["onnx 8"]
    assert named(chosen(*both(light, 0.1, 100), *both(fast, 0.01, 301))) == ["trt 2"]
    # Equal memory: fewer replicas.
    assert named(chosen(*both(light, 0.1, 100), *both(fast, 0.01, 300))) == ["onnx 8"]
    # Equal in all: by name.
    assert named(chosen(*both(light, 0.1), *both(cell(runtime="onnx"), 0.1))) == ["onnx 2"]
    # Unknown memory comes last.
    assert named(chosen(timed(fast, [0.01] * 6), *both(light, 0.1, 100))) == ["trt 2"]


def test_a_deployment_field_by_field() -> None:
    image, text = cell(), cell("text")
    plan = chosen(*both(image, 0.1, 1024), *both(text, 0.1, 512), images=35, texts=7)
    # 5 images and 1 text on 8 cores of 2 threads each: 4 and then 1 + 1.
    assert plan == Deployment(
        rank=1,
        env_id="env-a",
        model_id="M::w",
        random_weights=False,
        image=plan.image,
        text=plan.text,
        machines=2,
        memory_bytes=(5 * 1024 + 512) * MIB,
        fullest_bytes=4 * GIB,
        headroom_bytes=12 * GIB,
        notes=(),
        kinds=(("env-a", 2),),
        machines_interval=(2, 2),
        carries=plan.carries,
    )
    assert plan.carries == pytest.approx(1.0)
    assert [o.cell for o in plan.towers] == [image, text]
    assert [o.replicas for o in plan.towers] == [5, 1]
    only = chosen(*both(text, 0.1), images=0, texts=7)
    assert only.image is None and [o.cell for o in only.towers] == [text]


def test_one_tower_of_unknown_memory_makes_the_sum_unknown() -> None:
    rows = [*both(cell(), 0.1), timed(cell("text"), [0.1] * 6)]
    plan = chosen(*rows, texts=7)
    assert (plan.memory_bytes, plan.fullest_bytes, plan.headroom_bytes) == (None, None, None)
    assert plan.notes == ("RAM of the text tower was not measured",)


def test_one_tower_of_random_weights_marks_both() -> None:
    plan = chosen(*both(cell(), 0.1), *both(cell("text"), 0.1, random_weights=True), texts=7)
    assert plan.random_weights
    assert plan.notes == ("random weights: cost only, accuracy unknown",)


def test_what_is_missing_of_a_model() -> None:
    there = dataclasses.replace(OTHER, id="env-b")
    slow = both(cell(), 0.1)
    rows = [*slow, *both(cell("text", model="N::w"), 0.1)]
    sizing = size([result(rows)], Targets(1, 1, slo_s=0.05))
    assert sizing.unmet == (
        "M::w: no image and no text configuration passes: image (SLO breaks 1 of 1).",
        "N::w: no image and no text configuration passes: text (SLO breaks 1 of 1).",
    )
    sizing = size([result(rows)], Targets(1, 1))
    assert sizing.unmet == (
        "M::w: no text configuration passes.",
        "N::w: no image configuration passes.",
    )
    complete = result([*slow, *both(cell("text"), 0.1)])
    assert size([complete], Targets(0, 1)).unmet == ()
    # A tower that is not wanted is not missing.
    sizing = size([complete], Targets(1, 0, slo_s=0.05))
    assert sizing.unmet == ("M::w: no image configuration passes (SLO breaks 1 of 1).",)
    elsewhere = result(
        [timed(cell("text"), [0.1] * 6, env_id="env-b")], environments=(there,), path="b"
    )
    sizing = size([result(slow), elsewhere], Targets(1, 1))
    assert sizing.unmet == (
        "M::w (E1): no text configuration passes.",
        "M::w (E2): no image configuration passes.",
    )
    assert sizing.plans == ()


# --- words ---------------------------------------------------------------------------------


def lost(c: Cell, dataset: str, low: float = -0.2, high: float = -0.1, **more: Any) -> Score:
    values = {"baseline_value": 0.6, "difference": (low + high) / 2, "diff_ci95": (low, high)}
    return score(c, 0.5, dataset=dataset, **{**values, **more})


def notes(*scores: Score, **fields: Any) -> tuple[str, ...]:
    c = cell(**({"runtime": "onnx", "precision": "int8"} | fields))
    rows = on_machine(8, 16, *both(c, 0.1), scores=scores)
    (plan,) = size([rows], Targets(1, 0)).plans
    return plan.notes


def test_what_is_known_of_the_accuracy() -> None:
    c = cell(runtime="onnx", precision="int8", batch=8, side="text")
    unsure = "accuracy of onnx int8 was not confirmed: run `clipperf eval`"
    assert notes() == (unsure,)
    assert notes(lost(c, "b"), lost(c, "a"), lost(c, "c", -0.009, 0.0)) == (
        "onnx int8 loses accuracy on a and b",
    )
    assert notes(lost(c, "a", -0.009, 0.0)) == ()
    assert notes(lost(c, "a", -0.1, 0.1)) == (unsure,)
    # Scores of another tower, another precision, another model say nothing.
    assert notes(lost(cell(), "a", -0.009, 0.0)) == (unsure,)
    # The device does not matter, and full precision needs no proof.
    assert notes(lost(dataclasses.replace(c, device="cuda"), "a", -0.009, 0.0)) == ()
    assert notes(precision="fp32") == ()
    assert notes(lost(cell(runtime="onnx"), "a"), precision="fp32") == (
        "onnx fp32 loses accuracy on a",
    )


def test_a_batch_that_fills_more_slowly_than_the_slo() -> None:
    def told(slo_s: float | None, batch: int, streams: int = 1) -> tuple[str, ...]:
        c = cell(batch=batch, streams=streams, scenario="my-own")
        (plan,) = size([result(both(c, 0.1))], Targets(4, 0, slo_s=slo_s)).plans
        return plan.notes

    slowly = "to arrive, longer than the SLO"
    # 4 a second: 8 take 2 s.
    assert told(1.9, 8) == (f"at this rate one batch of 8 images takes 2.0 s {slowly}",)
    assert told(2.0, 8) == told(None, 8) == ()
    assert told(1.0, 4, 2) == (
        f"at this rate 2 batches of 4 images, one a stream, take 2.0 s {slowly}",
    )
    assert told(0.4, 2) == (f"at this rate one batch of 2 images takes 500 ms {slowly}",)
    # One alone waits for nobody.
    assert told(0.2, 1) == ()
    assert told(0.2, 1, 2) == (
        f"at this rate 2 batches of 1 images, one a stream, take 500 ms {slowly}",
    )


def test_notes_of_both_towers() -> None:
    onnx = cell(runtime="onnx")
    rows = [*both(onnx, 0.1, stable=False), *both(cell("text"), 0.1, stable=False)]
    apart = "the two towers run differently: evaluate them together before use"
    unstable = ("the image row is unstable", "the text row is unstable")
    assert chosen(*rows, texts=7).notes == (*unstable, apart)
    same = [*both(onnx, 0.1), *both(cell("text", "onnx"), 0.1)]
    assert chosen(*same, texts=7).notes == ()


def test_assumptions_name_quantiles_and_tokens() -> None:
    def told(tokens: tuple[int, ...], calls: int, texts: float = 1) -> list[str]:
        rows = [timed(cell("text", streams=n, tokens=n), [0.1] * calls) for n in tokens]
        rows += [timed(cell(), [0.1] * calls)]
        return list(size([result(rows)], Targets(1, texts)).assumptions)

    usual = told((8, 77), 700)
    assert usual[-1] == "Texts are 8 and 77 tokens long, the longest that were measured."
    assert len(usual) == 4 and "x 70.0 % utilisation" in usual[0]
    assert len(told((8,), 700, texts=0)) == 3
    few = told((8, 77), 70)
    assert few[-2].endswith("or the slowest call (here: p90).") and len(few) == 5
    rows = [timed(cell(), [0.1] * 70), timed(cell(batch=2), [0.1] * 6)]
    mixed = size([result(rows)], Targets(1, 0)).assumptions
    assert mixed[-1].endswith("(here: max, p90).")


# --- tables --------------------------------------------------------------------------------


def tables(sizing: Sizing, files: list[ResultFile]) -> list[Any]:
    return list(sizing_tables(sizing, environments(files)))


def test_targets_in_one_line() -> None:
    def text(*values: Any, **more: Any) -> str:
        return targets_text(Sizing(Targets(*values, **more), (), (), (), (), ()))

    assert text(12, 0) == "12.0 images/s, 70.0 % utilisation"
    assert text(0, 5, utilisation=0.5) == "5.00 texts/s, 50.0 % utilisation"
    assert text(1, 2, 0.25, GIB, 2 * GIB) == (
        "1.00 images/s, 2.00 texts/s, SLO 250 ms, RAM 1.00 GiB a machine, "
        "VRAM 2.00 GiB a machine, 70.0 % utilisation"
    )


def test_tables_of_one_machine() -> None:
    rows = [*both(cell(), 0.1, 1024), *both(cell("text", threads=4), 0.1, 512, stable=False)]
    files = [on_machine(8, 16, *rows)]
    plans, options = tables(size(files, Targets(7, 7)), files)
    assert plans.names[:3] == ("Rank", "Model", "Machines")
    assert plans.texts == (
        (
            *("1", "M::w", "1", "1 x torch fp32, batch 1, cpu, 2 threads"),
            *("1 x torch fp32, batch 1, cpu, 4 threads", "1.00x"),
            *("1.50 GiB", "1.50 GiB", "14.50 GiB"),
        ),
    )
    assert plans.findings == (
        "7.00 images/s, 7.00 texts/s, 70.0 % utilisation: 1 machine with M::w (image: 1 x torch "
        "fp32, batch 1, cpu, 2 threads; text: 1 x torch fp32, batch 1, cpu, 4 threads); the text "
        "row is unstable.",
    )
    assert plans.caveats[0] == "M::w: the text row is unstable."
    assert options.title.startswith("Configurations that pass, figures of one replica")
    assert "latency: max" in options.title
    assert "rests on: closed loop" in options.title
    columns = ("Items/s", "Held/s", "Latency ms", "RAM MiB", "Replicas", "Fit a machine", "Note")
    assert options.names[-7:] == columns
    ten = "10.0 [10.0, 10.0]"
    assert [row[-7:] for row in options.texts] == [
        (ten, ten, "100", "1024", "1", "4", ""),
        (ten, ten, "100", "512", "1", "2", "unstable"),
    ]


def test_towers_alike_do_not_repeat_their_device_and_threads() -> None:
    rows = [*both(cell(), 0.1), *both(cell("text"), 0.1)]
    files = [on_machine(8, 16, *rows)]
    (plans, _) = tables(size(files, Targets(70, 7)), files)
    assert plans.texts[0][3:5] == ("10 x torch fp32, batch 1", "1 x torch fp32, batch 1")
    assert plans.findings[0].endswith(
        ": 3 machines with M::w (image: 10 x torch fp32, batch 1; text: 1 x torch fp32, batch 1)."
    )


def test_tables_of_two_machines_and_what_does_not_pass() -> None:
    there = [timed(cell(), [0.01] * 6, env_id=OTHER.id)]
    files = [
        result([*both(cell(), 0.1), *both(cell(batch=64), 9.0)]),
        result(there, environments=(OTHER,), created_utc="2026-01-02T00:00:00Z", path="b"),
    ]
    plans, options, rejected = tables(size(files, Targets(7, 0, slo_s=1.0)), files)
    assert plans.caveats[0].startswith("Ranks count within an environment")
    assert plans.caveats[2] == "M::w (E2): RAM of the image tower was not measured."
    assert [f.partition(":")[0] for f in plans.findings] == [
        "7.00 images/s, SLO 1.0 s, 70.0 % utilisation on E1",
        "7.00 images/s, SLO 1.0 s, 70.0 % utilisation on E2",
    ]
    assert len(options.rows) == 2
    assert rejected.title.startswith("Configurations that do not pass")
    assert rejected.texts[0][-1] == "SLO: max 9.0 s is 8.0 s over 1.0 s"


def test_columns_of_options_that_differ() -> None:
    c = cell(batch=2, device="cuda")
    rows = [timed(c, [0.1] * 70), memory(c, 50, vram_peak_bytes=70 * MIB), *both(cell(), 0.1)]
    files = [on_machine(8, 16, *rows)]
    (_, options) = tables(size(files, Targets(7, 0)), files)
    named = dict(zip(options.names, zip(*options.texts, strict=True), strict=True))
    assert named["Quantile"] == ("max", "p90")
    assert named["VRAM MiB"] == ("-", "70") and named["RAM MiB"] == ("100", "50")
    assert named["Device"] == ("cpu", "cuda") and named["Batch"] == ("1", "2")


def test_only_the_best_is_a_finding() -> None:
    rows = [*both(cell(), 0.1), *both(cell(model="N::w"), 0.1, 200)]
    files = [on_machine(8, 16, *rows)]
    (plans, _) = tables(size(files, Targets(7, 0)), files)
    assert [row[:2] for row in plans.texts] == [("1", "M::w"), ("2", "N::w")]
    assert len(plans.findings) == 1 and "with M::w (" in plans.findings[0]


def test_merged_rows_are_those_of_wanted_towers() -> None:
    files = [on_machine(8, 16, *both(cell(), 0.1), *both(cell("text"), 0.1))]
    assert len(merge(files)) == 2
    assert {o.cell.side for o in size(files, Targets(1, 0)).options} == {"image"}
    assert {o.cell.side for o in size(files, Targets(0, 1)).options} == {"text"}


def test_ties_go_to_what_carries_more() -> None:
    # Equal machines and RAM: 2 x 10 a second are 20, of 14 asked at 70 % the same replicas.
    rows = [
        row
        for runtime, seconds in (("torch", 0.08), ("zeta", 0.05))
        for row in both(cell(runtime=runtime), seconds)
    ]
    sizing = size([on_machine(4, 16, *rows)], Targets(7.0, 0.0))
    (plan,) = sizing.plans
    assert plan.image is not None and plan.image.cell.runtime == "zeta"
    # 20 a second at 70 % are twice the 7 that are asked for, 12.5 are 1.25 times.
    assert plan.carries == pytest.approx(2.0)
    assert [(p.image.cell, p.rank) for p in sizing.front if p.image] == [(plan.image.cell, 1)]


def test_a_budget_that_changes_nothing_is_told() -> None:
    rows = both(cell(), 0.1)
    told = [
        size([result(rows)], Targets(7.0, 0.0, vram_bytes=budget)).assumptions
        for budget in (GIB, None)
    ]
    said = [
        [line for line in lines if "no row of these results ran on a GPU" in line] for lines in told
    ]
    assert [len(lines) for lines in said] == [1, 0]
