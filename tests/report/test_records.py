"""One row a cell, every field of it worked out by hand; the order of rows; what is compared."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
from report_data import ENVIRONMENT, MIB, OTHER, broken, cell, memory, result, score, timed

from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Measurement, ResultFile
from clipperf.report import records
from clipperf.report.records import (
    Row,
    cell_order,
    environments,
    finite,
    in_order,
    labels_of,
    merge,
    merge_scores,
    setup_order,
    speed_ratio,
)

TORCH, ONNX = cell(batch=8, streams=3), cell(runtime="onnx", precision="bf16", batch=8, streams=3)
SECOND, THIRD = "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"
RANDOM = ModelSpec("M::w", "open_clip", "M", "random:0", 224, 77, 512)


def test_every_field_of_a_row() -> None:
    peer = dataclasses.replace(ONNX, runtime="torch")
    time = timed(ONNX, [0.5, 0.25, 0.5, 1.0, 0.5, 0.75], random_weights=True)
    held = memory(
        ONNX,
        110,
        vram_peak_bytes=7 * MIB,
        vram_source="nvml",
        vram_allocated_bytes=5 * MIB,
        disk_bytes=None,
    )
    everything = [
        timed(TORCH, [1.0, 0.5, 1.0, 2.0, 1.0, 1.5]),
        timed(peer, [0.5, 0.25, 0.5, 1.0, 0.5, 0.75]),
        held,
        time,
    ]
    earlier = result(scores=[score(TORCH)], created_utc="2025-01-01T00:00:00Z")
    row = merge([result(everything), earlier])[-1]
    assert row == Row(
        cell=ONNX,
        env_id="env-a",
        random_weights=True,
        time_status="ok",
        memory_status="ok",
        samples=6,
        load_s=0.5,
        first_run_s=0.02,
        p50_s=0.5,
        p50_interval_s=(0.25, 1.0),
        max_s=1.0,
        mean_s=3.5 / 6,
        # 3 streams of batches of 8 in half a second, a quarter, a whole one.
        items_per_s=48.0,
        items_interval=(24.0, 96.0),
        stable=True,
        disk_bytes=100 * MIB,
        rss_bare_bytes=10 * MIB,
        rss_peak_bytes=110 * MIB,
        rss_delta_bytes=100 * MIB,
        vram_peak_bytes=7 * MIB,
        vram_source="nvml",
        vram_allocated_bytes=5 * MIB,
        ratio=2.0,
        ratio_interval=(2.0, 2.0),
        ratio_baseline=TORCH,
        baseline_stable=True,
        peer_ratio=1.0,
        peer_interval=(1.0, 1.0),
        source=1,
        time=time,
    )
    assert not row.failed and row.setup == "onnx bf16"


def test_quantiles_of_a_row() -> None:
    (row,) = merge([result([timed(cell(), [float(i) for i in range(1, 663)])])])
    # Linear interpolation between the places 1 to 662: 1 + q * 661.
    assert (row.p90_s, row.p95_s, row.p99_s) == pytest.approx((595.9, 628.95, 655.39))


def test_a_memory_pass_alone_has_no_times() -> None:
    (row,) = merge([result([memory(cell(), 110)])])
    told = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    assert {name: value for name, value in told.items() if value not in (None, (), 0, False)} == {
        "cell": cell(),
        "env_id": "env-a",
        "memory_status": "ok",
        "disk_bytes": 100 * MIB,
        "rss_bare_bytes": 10 * MIB,
        "rss_peak_bytes": 110 * MIB,
        "rss_delta_bytes": 100 * MIB,
    }


def test_a_row_of_nothing() -> None:
    row = Row(cell(), "env-a", False)
    told = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    empty = {"samples": 0, "source": 0, "problems": ()}
    assert {n: v for n, v in told.items() if v is not None} == {
        "cell": cell(),
        "env_id": "env-a",
        "random_weights": False,
        **empty,
    }


@pytest.mark.parametrize("missing", ["rss_bare_bytes", "rss_peak_bytes"])
def test_what_a_tower_takes_needs_both_marks(missing: str) -> None:
    pass_ = dataclasses.replace(memory(cell(), 110), **{missing: None})
    (row,) = merge([result([pass_])])
    assert row.rss_delta_bytes is None


def test_problems_and_failures() -> None:
    c = cell()
    cases: list[tuple[list[Measurement], bool, tuple[str, ...]]] = [
        ([broken(c, "boom")], True, ("time pass failed: boom",)),
        (
            [broken(c, "", "unsupported", "memory"), timed(c, [0.1])],
            True,
            ("memory pass unsupported: no reason was recorded",),
        ),
        (
            [broken(c, "a"), broken(c, "b", kind="memory")],
            True,
            ("time pass failed: a", "memory pass failed: b"),
        ),
        (
            [timed(c, [0.1, math.inf])],
            False,
            ("time pass: no usable samples (none, or not finite, or not positive)",),
        ),
        ([timed(c, [0.1]), memory(c, 20)], False, ()),
    ]
    for passes, failed, problems in cases:
        (row,) = merge([result(passes)])
        assert (row.failed, row.problems) == (failed, problems)
    (row,) = merge([result([timed(c, [0.0])])])
    assert (row.samples, row.p50_s, row.max_s, row.mean_s, row.items_per_s) == (0, *[None] * 4)


def test_what_is_no_number_is_missing() -> None:
    assert [finite(value) for value in (None, math.nan, math.inf, -math.inf)] == [None] * 4
    assert (finite(0.0), finite(-1.5)) == (0.0, -1.5)
    (row,) = merge([result([timed(cell(), [0.1], load_s=math.nan, first_run_s=math.inf)])])
    assert (row.load_s, row.first_run_s) == (None, None)


def test_random_weights_are_known_from_the_spec_or_a_pass() -> None:
    c, other = cell(), cell(model="N::w")
    rows = [timed(c, [0.1]), memory(other, 20, random_weights=True), timed(other, [0.1])]
    assert [row.random_weights for row in merge([result(rows)])] == [False, True]
    # The spec may stand in another file.
    files = [result(rows[:1]), result([timed(cell("text"), [0.1])], specs=(RANDOM,), path="b")]
    assert RANDOM.random_weights
    assert [row.random_weights for row in merge(files)] == [True, True]


# --- several files -------------------------------------------------------------------------


def test_files_are_read_oldest_first_then_by_name() -> None:
    one = [timed(cell(), [0.1])]
    files = [
        result(one, created_utc=SECOND, path="a"),
        result(one, created_utc=THIRD, path="c"),
        result(one, created_utc=SECOND, path="b"),
        result(created_utc="2020-01-01T00:00:00Z", path="empty"),
    ]
    assert [r.path for r in in_order(files[::-1])] == ["empty", "a", "b", "c"]
    with pytest.raises(UsageError, match="no results to report"):
        in_order(files[3:])
    assert in_order([result(scores=[score(cell())])])


def test_the_newest_of_each_pass_wins_and_says_from_which_file() -> None:
    c = cell()
    old = result([timed(c, [0.4]), memory(c, 50)])
    new = result([timed(c, [0.1])], created_utc=SECOND, path="b")
    empty = result(created_utc="2020-01-01T00:00:00Z", path="0")
    for files in itertools.permutations([old, new, empty]):
        (row,) = merge(list(files))
        assert (row.p50_s, row.rss_peak_bytes, row.source) == (0.1, 50 * MIB, 2)
    (row,) = merge([old, result([memory(c, 60)], created_utc=SECOND)])
    assert (row.p50_s, row.rss_peak_bytes, row.source) == (0.4, 60 * MIB, 0)


def test_peers_are_those_of_the_file_of_the_time_pass() -> None:
    onnx = cell(runtime="onnx")
    there = result([timed(cell(), [0.8] * 6)], path="z.json", created_utc=SECOND)
    here = result([timed(cell(), [0.2] * 6), timed(onnx, [0.1] * 6)])
    rows = {row.cell: row for row in merge([there, here])}
    assert rows[onnx].ratio == 2.0 and rows[onnx].source == 0
    assert rows[cell()].p50_s == 0.8 and rows[cell()].source == 1


def in_environment(name: str, created: str, **more: Any) -> ResultFile:
    described = dataclasses.replace(ENVIRONMENT, id=name)
    values = {"environments": (described,), "created_utc": created, "path": name} | more
    return result([timed(cell(), [0.1], env_id=name)], **values)


def test_environments_are_numbered_by_age() -> None:
    # By name it would be the other way round.
    young, old = in_environment("young", THIRD, path="0"), in_environment("old", SECOND)
    nameless = in_environment("nameless", THIRD, environments=(), path="z")
    only_scores = result(
        scores=[score(cell(), env_id=OTHER.id)],
        environments=(OTHER,),
        created_utc="2025-01-01T00:00:00Z",
    )
    empty = result(environments=(dataclasses.replace(ENVIRONMENT, id="unused"),))
    files = [nameless, young, empty, old, only_scores]
    found = environments(files)
    assert {name: label for name, (label, _) in found.items()} == {
        "env-b": "E1",
        "old": "E2",
        "young": "E3",
        "nameless": "E4",
    }
    assert labels_of(files) == {name: label for name, (label, _) in found.items()}
    assert found["env-b"][1] is OTHER and found["nameless"][1] is None
    assert list(found) == ["env-b", "old", "young", "nameless"]
    assert [row.env_id for row in merge(files)] == ["old", "young", "nameless"]
    # The first description of an environment is the one that is shown.
    again = dataclasses.replace(OTHER, cpu="renamed")
    later = result(scores=[score(cell())], environments=(again,), created_utc=THIRD)
    assert environments([later, only_scores])["env-b"][1] is OTHER
    # Of the same age: by name.
    same = [in_environment("b", SECOND), in_environment("a", SECOND)]
    assert list(environments(same)) == ["a", "b"]


def test_an_environment_of_scores_alone_without_a_description() -> None:
    lonely = result(scores=[score(cell(), env_id="env-z")], environments=())
    assert environments([lonely]) == {"env-z": ("E1", None)}


# --- the order of rows ---------------------------------------------------------------------

LEADING: list[tuple[str, Any, Any]] = [
    ("model_id", "A", "B"),
    ("side", "image", "text"),
    ("device", "cpu", "cuda"),
    ("tokens", None, 8),
    ("threads", 1, 2),
    ("streams", 1, 2),
    ("scenario", "closed-loop", "server"),
    ("batch", 2, 10),
    ("runtime", "torch", "onnx"),
    ("precision", "tf32", "fp16"),
    ("input", "float32", "uint8"),
]
"""The fields of a cell from the one that orders rows first to the last, with a value before
another."""
LOW, HIGH = ({name: value[i] for name, *value in LEADING} for i in (0, 1))


def made(**fields: Any) -> Cell:
    return dataclasses.replace(cell(), **fields)


@pytest.mark.parametrize("at", range(len(LEADING)))
def test_rows_are_ordered_field_by_field(at: int) -> None:
    names = [name for name, *_ in LEADING]
    # All that follows says the contrary.
    first = made(**{n: HIGH[n] if i > at else LOW[n] for i, n in enumerate(names)})
    second = made(**{n: HIGH[n] if i == at else LOW[n] for i, n in enumerate(names)})
    assert cell_order(first) < cell_order(second)
    rows = merge([result([timed(second, [0.1]), timed(first, [0.1])])])
    assert [row.cell for row in rows] == [first, second]


def test_no_tokens_come_before_any() -> None:
    assert cell_order(made(tokens=None)) < cell_order(made(tokens=1))
    assert cell_order(made(tokens=None)) == cell_order(made(tokens=0))


def test_the_baseline_s_runtime_comes_first_then_precisions_by_rank_then_by_name() -> None:
    setups = [
        ("torch", "fp32"),
        ("torch", "int8"),
        ("onnx", "fp32"),
        ("onnx", "int8"),
        ("onnx", "a-plugin"),
        ("onnx", "b-plugin"),
        ("openvino", "fp32"),
    ]
    cells = [made(runtime=runtime, precision=precision) for runtime, precision in setups]
    assert sorted(cells, key=setup_order) == cells


# --- speed of one over another -------------------------------------------------------------


def rows_of(*passes: Measurement, **more: Any) -> dict[str, Row]:
    return {row.setup: row for row in merge([result(passes, **more)])}


def test_a_speed_ratio_has_two_ends() -> None:
    ours = timed(cell(runtime="onnx"), [0.1, 0.1, 0.1, 0.1, 0.08, 0.16])
    rows = rows_of(timed(cell(), [0.2] * 6), ours, timed(cell(runtime="trt"), [0.05] * 6))
    # Against the baseline: 2, from 0.2 / 0.16 to 0.2 / 0.08; turned round 1/2.
    ratio, ends = speed_ratio(rows["onnx fp32"], rows["torch fp32"]) or (0, None)
    assert ratio == pytest.approx(2) and ends == pytest.approx((1.25, 2.5))
    ratio, ends = speed_ratio(rows["torch fp32"], rows["onnx fp32"]) or (0, None)
    assert ratio == pytest.approx(0.5) and ends == pytest.approx((0.4, 0.8))
    # Two rivals: block by block.
    ratio, ends = speed_ratio(rows["trt fp32"], rows["onnx fp32"]) or (0, None)
    assert ratio == pytest.approx(2) and ends == pytest.approx((1.6, 3.2))


def test_a_speed_ratio_of_few_blocks_has_no_interval() -> None:
    rows = rows_of(timed(cell(), [0.2] * 2), timed(cell(runtime="onnx"), [0.1] * 2))
    assert speed_ratio(rows["onnx fp32"], rows["torch fp32"]) == (2.0, None)
    assert speed_ratio(rows["torch fp32"], rows["onnx fp32"]) == (0.5, None)


def test_a_row_s_own_ratio_is_the_one_of_its_common_group() -> None:
    """PyTorch took turns in two groups; its own row shows the second, where it was slower."""
    onnx, int8 = cell(runtime="onnx"), cell(runtime="onnx", precision="int8")
    rows = rows_of(
        timed(cell(), [0.2] * 6, group="a"),
        timed(onnx, [0.1] * 6, group="a"),
        timed(cell(), [0.6] * 6, group="b"),
        timed(int8, [0.1] * 6, group="b"),
    )
    one, two, torch = rows["onnx fp32"], rows["onnx int8"], rows["torch fp32"]
    assert torch.p50_s == 0.6
    assert (speed_ratio(one, torch) or (0,))[0] == pytest.approx(2)
    assert (speed_ratio(torch, one) or (0,))[0] == pytest.approx(1 / 2)
    assert (speed_ratio(two, torch) or (0,))[0] == pytest.approx(6)
    assert speed_ratio(one, two) is None, "they never took turns"


def test_rows_that_never_met_have_no_speed_ratio() -> None:
    torch, onnx = timed(cell(), [0.2] * 6), timed(cell(runtime="onnx"), [0.1] * 6)
    rows = rows_of(torch, onnx)
    ours, theirs = rows["onnx fp32"], rows["torch fp32"]
    assert speed_ratio(ours, theirs) is not None
    for changed in ({"time": None}, {"env_id": "env-b"}, {"source": 1}, {"cell": cell(batch=2)}):
        assert speed_ratio(dataclasses.replace(ours, **changed), theirs) is None
        assert speed_ratio(ours, dataclasses.replace(theirs, **changed)) is None
    rivals = rows_of(torch, onnx, timed(cell(runtime="trt"), [0.1] * 6, group="other"))
    assert speed_ratio(rivals["trt fp32"], rivals["onnx fp32"]) is None


def test_differences_below_a_tenth_are_not_called() -> None:
    assert records.RESOLVABLE_GAP == 0.10


# --- scores --------------------------------------------------------------------------------


def test_the_newest_score_of_each_figure_stays() -> None:
    old = result(scores=[score(cell(), 0.5), score(cell(), 0.4, metric="top-5")])
    new = result(scores=[score(cell(), 0.6)], created_utc=SECOND, path="b")
    assert [(s.metric, s.value) for s in merge_scores([new, old])] == [
        ("top-1", 0.6),
        ("top-5", 0.4),
    ]


def test_scores_are_ordered_by_place_model_data_metric_and_cell() -> None:
    onnx = cell(runtime="onnx")
    ordered = [
        score(onnx, 0.01, metric="top-5", dataset="z"),
        score(cell(model="N::w"), 0.02, dataset="a", dataset_sha256="2"),
        score(cell(model="N::w"), 0.03, dataset="b", dataset_sha256="0" * 64),
        score(cell(model="N::w"), 0.04, dataset="b", dataset_sha256="1" * 64, metric="recall"),
        score(onnx, 0.05, dataset="a", env_id=OTHER.id, metric="recall"),
        score(cell(), 0.06, dataset="a", env_id=OTHER.id, metric="mean"),
        score(onnx, 0.07, dataset="a", env_id=OTHER.id, metric="mean"),
    ]
    # "recall" is written before "mean", and "top-5" last of all.
    written = [ordered[i] for i in (4, 3, 6, 5, 2, 1, 0)]
    file = result(scores=written, environments=(ENVIRONMENT, OTHER))
    found = merge_scores([file])
    assert [s.value for s in found] == [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]


def test_scores_of_random_weights_are_marked() -> None:
    scores = [score(cell()), score(cell(model="N::w")), score(cell(model="O::w"), 0.1)]
    scores[2] = dataclasses.replace(scores[2], random_weights=True)
    later = result(created_utc=SECOND, specs=(RANDOM,), path="b")
    assert [s.random_weights for s in merge_scores([result(scores=scores), later])] == [
        True,
        False,
        True,
    ]
    with pytest.raises(UsageError, match="no results"):
        merge_scores([later])


def test_ram_over_bare_processes_takes_shared_pages_off_neither() -> None:
    """Two of 100 MiB, 60 bare, that share 50: 150 together, and each is 40 over its bare one."""
    held = memory(cell(instances=2), 150, bare_mib=120, rss_shared_bytes=50 * MIB)
    (row,) = merge([result([held])])
    assert (row.rss_peak_bytes, row.rss_delta_bytes) == (150 * MIB, 80 * MIB)


def test_items_of_unequal_instances_are_the_sum_of_what_each_gives() -> None:
    """10 ms and 30 ms a call of one: 100 and 33 a second, not twice what their median would be."""
    calls, workers = [0.01] * 8 + [0.03] * 6, (0,) * 8 + (1,) * 6
    (row,) = merge([result([timed(cell(instances=2), calls, workers=workers)])])
    assert row.items_per_s == pytest.approx(100 + 100 / 3)
    assert row.items_interval == pytest.approx((100 + 100 / 3, 100 + 100 / 3))
    few = timed(cell(instances=2), calls[:9], workers=workers[:9])
    (row,) = merge([result([few])])
    assert (row.items_per_s, row.items_interval) == (pytest.approx(100 + 100 / 3), None)
    (row,) = merge([result([timed(cell(instances=2), [0.02] * 6)])])  # an older file
    assert row.items_per_s == pytest.approx(100)
