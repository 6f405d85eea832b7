"""Sizing against replicas and machines worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
from report_data import ENVIRONMENT, GIB, MIB, OTHER, broken, cell, memory, result, score, timed

from clipperf.errors import UsageError
from clipperf.report.sizing.packing import Load, Machine, pack
from clipperf.report.sizing.solve import Targets, size
from clipperf.report.sizing.tables import sizing_tables


def measured(seconds: float, peak_mib: int, calls: int = 6, **where):
    """Both passes of one cell that takes `seconds` a batch."""
    c = cell(**where)
    return [timed(c, [seconds] * calls), memory(c, peak_mib)]


# 100 ms an image and 50 ms a text, one by one: 10 images/s and 20 texts/s a replica.
BOTH = [result([*measured(0.1, 1024, side="image"), *measured(0.05, 512, side="text")])]


def test_replicas_machines_and_memory() -> None:
    # 60 / (10 x 0.7) = 8.57: 9 image replicas; 30 / (20 x 0.7) = 2.14: 3 text replicas.
    # 8 cores at 2 threads hold 4 replicas: 12 replicas fill 3 machines.
    sizing = size(BOTH, Targets(60, 30))
    (plan,) = sizing.plans
    assert plan.image is not None and plan.text is not None
    assert (plan.image.replicas, plan.text.replicas) == (9, 3)
    assert (plan.image.per_machine, plan.text.per_machine) == (4, 4)
    assert plan.machines == 3
    assert plan.memory_bytes == (9 * 1024 + 3 * 512) * MIB
    # Two machines hold 4 images each, the third 1 image and 3 texts.
    assert plan.fullest_bytes == 4 * 1024 * MIB
    assert plan.headroom_bytes == 12 * GIB
    assert sizing.rejected == () and sizing.unmet == ()


def test_small_load_shares_one_machine() -> None:
    (plan,) = size(BOTH, Targets(1, 1)).plans
    assert plan.machines == 1
    assert plan.fullest_bytes == 1536 * MIB


def test_exact_fit_is_not_rounded_up() -> None:
    # 7 / (10 x 0.7) is 1 up to binary fractions.
    (plan,) = size(BOTH, Targets(7, 0)).plans
    assert plan.image is not None and plan.image.replicas == 1
    assert plan.text is None
    (more,) = size(BOTH, Targets(7.01, 0)).plans
    assert more.image is not None and more.image.replicas == 2


def test_ram_budget_limits_replicas_per_machine() -> None:
    # 3 GiB hold 2 image replicas of 1 GiB beside 2 of text, or 3 of image alone.
    (plan,) = size(BOTH, Targets(60, 0, ram_bytes=3 * GIB)).plans
    assert plan.image is not None
    assert plan.image.per_machine == 3
    assert plan.machines == 3
    assert plan.headroom_bytes == 0


def test_limits_say_by_how_much() -> None:
    sizing = size(BOTH, Targets(60, 30, slo_s=0.08, ram_bytes=768 * MIB))
    assert sizing.plans == ()
    (image,) = sizing.rejected
    assert image.broken == (
        "SLO: max 100 ms is 20.0 ms over 80.0 ms",
        "RAM: one replica peaks at 1.00 GiB, 256.0 MiB over 768.0 MiB",
    )
    assert image.replicas is None
    assert sizing.unmet == ("M::w: no image configuration passes (SLO breaks 1 of 1, RAM 1).",)
    tables = sizing_tables(sizing, {"env-a": ("E1", ENVIRONMENT)})
    assert tables[0].texts == ()
    assert any("No configuration meets" in f for f in tables[0].findings)
    assert "SLO: max 100 ms" in tables[2].texts[0][-1]


def test_latency_quantile_is_the_highest_backed() -> None:
    for calls, quantile in ((6, "max"), (64, "p90"), (130, "p95"), (662, "p99")):
        (option,) = size([result(measured(0.1, 100, calls))], Targets(1, 0)).options
        assert option.latency_quantile == quantile
    sizing = size([result(measured(0.1, 100))], Targets(1, 0))
    assert any("(here: max)" in a for a in sizing.assumptions)


def test_rate_counts_slow_calls() -> None:
    c = cell()
    (option,) = size([result([timed(c, [0.1] * 9 + [1.1])])], Targets(1, 0)).options
    assert option.rate_per_s == pytest.approx(5.0)


def test_failed_and_unmeasured_rows_are_rejected_with_their_reason() -> None:
    bad, slow = cell(runtime="onnx"), cell(runtime="onnx", precision="int8")
    only_memory = cell(batch=8)
    files = [
        result(
            [
                *measured(0.1, 100),
                broken(bad, "boom"),
                timed(slow, [0.1] * 6),
                memory(only_memory, 100),
            ]
        )
    ]
    sizing = size(files, Targets(1, 0, ram_bytes=GIB))
    reasons = {(o.cell.setup, o.cell.batch): "; ".join(o.broken) for o in sizing.rejected}
    assert "time pass failed: boom" in reasons["onnx fp32", 1]
    assert "RAM: not measured" in reasons["onnx int8", 1]
    assert "only a memory pass" in reasons["torch fp32", 8]
    assert len(sizing.options) == 1
    # Without a budget unknown RAM passes, and the plan says so.
    loose = size([result([timed(slow, [0.1] * 6)])], Targets(1, 0))
    assert loose.plans[0].memory_bytes is None and loose.plans[0].headroom_bytes is None
    assert "RAM of the image tower was not measured" in loose.plans[0].notes


def test_best_of_each_tower_and_never_across_models() -> None:
    files = [
        result(
            [
                *measured(0.1, 1024, side="image"),
                *measured(0.05, 300, side="image", runtime="onnx", precision="int8"),
                *measured(0.05, 512, side="text"),
                *measured(0.001, 50, side="image", model="N::w"),
            ]
        )
    ]
    sizing = size(files, Targets(100, 10))
    (plan,) = sizing.plans
    assert plan.model_id == "M::w"
    assert plan.image is not None and plan.image.cell.setup == "onnx int8"
    assert plan.text is not None and plan.text.cell.setup == "torch fp32"
    assert "the two towers run differently: evaluate them together before use" in plan.notes
    assert "accuracy of onnx int8 was not confirmed: run `clipperf eval`" in plan.notes
    assert sizing.unmet == ("N::w: no text configuration passes.",)


def test_ranking_by_machines_then_memory() -> None:
    files = [
        result(
            [
                *measured(0.5, 100, model="slow::w"),
                *measured(0.1, 900, model="a-heavy::w"),
                *measured(0.1, 200, model="z-light::w"),
            ]
        )
    ]
    sizing = size(files, Targets(21, 0))
    assert [(p.rank, p.model_id, p.machines) for p in sizing.plans] == [
        (1, "z-light::w", 1),
        (2, "a-heavy::w", 1),
        (3, "slow::w", 4),
    ]
    assert size(files, Targets(21, 0)) == sizing
    turned = [dataclasses.replace(files[0], measurements=files[0].measurements[::-1])]
    assert [p.model_id for p in size(turned, Targets(21, 0)).plans] == [
        p.model_id for p in sizing.plans
    ]


def test_environments_rank_apart() -> None:
    there = result(
        [timed(cell(), [0.01] * 6, env_id=OTHER.id)],
        environments=(OTHER,),
        path="b.json",
        created_utc="2026-01-02T00:00:00Z",
    )
    sizing = size([*BOTH, there], Targets(10, 0))
    assert [(p.env_id, p.rank) for p in sizing.plans] == [("env-a", 1), ("env-b", 1)]


def test_longest_texts_are_used() -> None:
    files = [
        result(
            [
                *measured(0.001, 100, side="text", tokens=8),
                *measured(0.1, 100, side="text", tokens=77),
            ]
        )
    ]
    sizing = size(files, Targets(0, 5))
    assert [o.cell.tokens for o in sizing.options] == [77]
    assert any("77 tokens" in a for a in sizing.assumptions)


def test_notes_tell_of_noise_randomness_and_accuracy() -> None:
    c = cell(runtime="onnx", precision="int8", batch=32)
    files = [
        result(
            [timed(c, [0.1] * 6, stable=False), memory(c, 100)],
            scores=[
                score(
                    cell(runtime="onnx", precision="int8"),
                    0.5,
                    baseline_value=0.6,
                    difference=-0.1,
                    diff_ci95=(-0.12, -0.08),
                )
            ],
        )
    ]
    (plan,) = size(files, Targets(4, 0, slo_s=1.0)).plans
    assert plan.notes == (
        "the image row is unstable",
        "what the image tower holds is a queueing estimate",
        "onnx int8 loses accuracy on cifar10",
    )
    noise = result([timed(cell(model="R::random:0"), [0.1] * 6, random_weights=True)])
    (plan,) = size([noise], Targets(1, 0)).plans
    assert plan.random_weights
    assert "random weights: cost only, accuracy unknown" in plan.notes


@pytest.mark.parametrize(
    ("precision", "pixels", "asked"),
    [
        ("fp32", "float32", False),
        ("fp32", "uint8", False),
        ("tf32", "float32", True),
        ("int8", "uint8", True),
        ("my-fp32", "float32", True),
    ],
)
def test_full_precision_needs_no_evaluation_whatever_it_is_fed(
    precision: str, pixels: str, asked: bool
) -> None:
    c = cell(runtime="onnx", precision=precision, input=pixels)
    (plan,) = size([result([timed(c, [0.1] * 6), memory(c, 100)])], Targets(1, 0)).plans
    told = f"accuracy of {c.setup} was not confirmed: run `clipperf eval`"
    assert plan.notes == ((told,) if asked else ())


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (Targets(0, 0), "nothing to size"),
        (Targets(-1, 0), "not negative"),
        (Targets(math.nan, 1), "finite"),
        (Targets(1, 1, utilisation=0), "utilisation"),
        (Targets(1, 1, utilisation=1.1), "utilisation"),
        (Targets(1, 1, slo_s=0), "SLO"),
        (Targets(1, 1, ram_bytes=-1), "RAM budget"),
    ],
)
def test_targets_are_checked(targets, words) -> None:
    with pytest.raises(UsageError, match=words):
        size(BOTH, targets)


def test_nothing_measured() -> None:
    with pytest.raises(UsageError, match="clipperf profile"):
        size([], Targets(1, 1))
    with pytest.raises(UsageError, match="clipperf profile"):
        size([result(measured(0.1, 100, side="image"))], Targets(0, 1))


def test_threads_beyond_the_machine() -> None:
    small = dataclasses.replace(ENVIRONMENT, cores=1)
    sizing = size([result(measured(0.1, 100), environments=(small,))], Targets(1, 0))
    assert sizing.rejected[0].broken == ("cores: 2 threads are 1 more than the machine's 1",)


# --- GPUs ----------------------------------------------------------------------------------


def on_gpu(image_s: float, text_s: float, vram_mib: int = 1000):
    """Both towers on a GPU machine of 4 cores and 8 GiB of VRAM."""
    measurements = []
    for side, seconds in (("image", image_s), ("text", text_s)):
        c = cell(side, device="cuda")
        measurements.append(timed(c, [seconds] * 6, env_id=OTHER.id))
        measurements.append(
            memory(c, 2000, env_id=OTHER.id, vram_peak_bytes=vram_mib * MIB, vram_source="nvml")
        )
    return [result(measurements, environments=(OTHER,))]


def test_a_gpu_is_shared_while_it_is_idle_enough() -> None:
    # 70 / (1000 x 0.7) = 0.1 of a GPU for each tower: one machine.
    files = on_gpu(0.001, 0.001)
    assert size(files, Targets(70, 70)).plans[0].machines == 1
    # 0.6 of a GPU each: two machines.
    assert size(files, Targets(420, 420)).plans[0].machines == 2
    # At 70 a second p99 is between 1 and 2 ms, twice that beside the other tower.
    (plan,) = size(files, Targets(70, 70, slo_s=0.01)).plans
    assert plan.machines == 1 and plan.image is not None
    assert 0.001 < (plan.image.expected_s or 0) < 0.002
    assert size(files, Targets(70, 70, slo_s=0.0025)).plans[0].machines == 2
    # 5 GiB each do not fit 8 GiB together.
    assert size(on_gpu(0.001, 0.001, 5000), Targets(70, 70)).plans[0].machines == 2


def test_spare_replicas_have_a_gpu_of_their_own() -> None:
    # 0.6 of a GPU each and one spare each: four machines. Of 0.1 each the two that work share one.
    files = on_gpu(0.001, 0.001)
    assert size(files, Targets(420, 420, spare=1)).plans[0].machines == 4
    assert size(files, Targets(70, 70, spare=1)).plans[0].machines == 3


def test_an_intervals_end_is_packed_with_its_own_load() -> None:
    # Batches of 0.1 and 0.3 s: 5 a second [3.175, 11.76]. 1.7 / (5 x 0.7) = 0.486 of a GPU for
    # each tower share one; at the slow end 1.7 / (3.175 x 0.7) = 0.765 of each do not.
    rows = []
    for side in ("image", "text"):
        c = cell(side, device="cuda")
        rows.append(timed(c, [0.1, 0.3] * 3, env_id=OTHER.id))
        rows.append(memory(c, 2000, env_id=OTHER.id, vram_peak_bytes=MIB, vram_source="nvml"))
    (plan,) = size([result(rows, environments=(OTHER,))], Targets(1.7, 1.7)).plans
    assert (plan.machines, plan.machines_interval) == (1, (1, 2))


def test_one_replica_a_gpu() -> None:
    # 2.5 GPUs of images; the third one's other half takes the texts' 0.1.
    (plan,) = size(on_gpu(0.001, 0.001), Targets(1750, 70)).plans
    assert plan.image is not None and plan.image.replicas == 3
    assert plan.image.per_machine == 1
    assert plan.machines == 3


def test_vram_budget() -> None:
    sizing = size(on_gpu(0.001, 0.001), Targets(70, 0, vram_bytes=500 * MIB))
    assert sizing.rejected[0].broken == (
        "VRAM: one replica peaks at 1000.0 MiB, 500.0 MiB over 500.0 MiB",
    )


# --- packing -------------------------------------------------------------------------------


def load(replicas: int, threads: int, ram: int) -> Load:
    """A CPU load in small numbers."""
    return Load(threads, ram, 0, False, replicas, float(replicas), 0.1)


def test_text_fills_the_gaps_beside_images() -> None:
    # 5 cores hold 2 images of 2 threads and 1 text of 1: no machine of its own is needed.
    machine = Machine(cores=5, ram_bytes=100, vram_bytes=None)
    assert pack([load(4, 2, 10), load(2, 1, 10)], machine) == [(2, (2, 1))]
    # RAM closes the gap.
    tight = Machine(cores=5, ram_bytes=25, vram_bytes=None)
    assert sum(n for n, _ in pack([load(4, 2, 10), load(2, 1, 10)], tight)) == 3


def test_packing_places_every_replica_within_limits() -> None:
    machine = Machine(cores=7, ram_bytes=50, vram_bytes=None)
    for images in range(1, 12):
        for texts in range(1, 12):
            loads = [load(images, 2, 11), load(texts, 3, 7)]
            filled = pack(loads, machine)
            assert sum(n * counts[0] for n, counts in filled) == images
            assert sum(n * counts[1] for n, counts in filled) == texts
            assert all(machine.holds(loads, counts) for _, counts in filled)
            assert sum(n for n, _ in filled) <= math.ceil(images / 3) + math.ceil(texts / 2)


def test_no_known_limits_is_one_machine() -> None:
    machine = Machine(cores=None, ram_bytes=None, vram_bytes=None)
    assert pack([load(1000, 2, 10), load(7, 1, 10)], machine) == [(1, (1000, 7))]
