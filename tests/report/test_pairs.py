"""Keys over rows are the whole cell: rows that differ in any field of it are never put together."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from report_data import MIB, cell, memory, realistic, result, score, timed

from clipperf.models.published import BasicStatistics
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import GpuLoad, ResultFile
from clipperf.report.build import build_report
from clipperf.report.charts import BarChart, LineChart, speed_charts
from clipperf.report.columns import CELL_COLUMNS
from clipperf.report.findings import memory_findings, speed_findings
from clipperf.report.format import FORMATS, render
from clipperf.report.gpu import energy_per_1000_j, gpu_table
from clipperf.report.pairs import alike, is_baseline
from clipperf.report.published import published_table
from clipperf.report.records import merge, speed_ratio
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.tables import sizing_tables
from clipperf.report.sizing.types import Targets
from clipperf.report.tables import cost_table, pair_towers, summary

BASE = cell("text", "onnx", "fp32", 8, device="cuda")
OTHER: dict[str, Any] = {
    "model_id": "N::w",
    "side": "image",
    "runtime": "openvino",
    "precision": "int8",
    "device": "cpu",
    "batch": 9,
    "threads": 3,
    "tokens": 12,
    "streams": 2,
    "input": "uint8",
    "scenario": "server",
    "instances": 2,
}
"""Another value of each field of a cell."""

FIELDS = [field.name for field in dataclasses.fields(Cell)]
LABELS = {"env-a": "E1"}
TARGETS = Targets(1, 1)


def changed(name: str) -> Cell:
    return dataclasses.replace(BASE, **{name: OTHER[name]})


def both(name: str) -> list[ResultFile]:
    """Two cells that differ in one field, each measured in turns with PyTorch of its own."""
    rows = []
    for i, c in enumerate((BASE, changed(name))):
        peer = dataclasses.replace(c, runtime="torch", precision="fp32", input="float32")
        for each, seconds in ((peer, 0.4), (c, 0.1 + i / 100)):
            load = GpuLoad(1.0, 10, energy_j=10.0)
            rows.append(timed(each, [seconds] * 6, group=f"g{i}", gpu=load))
            rows.append(memory(each, 100 + i, vram_peak_bytes=(50 + i) * MIB))
    return [result(rows)]


def test_this_file_knows_every_field() -> None:
    assert set(OTHER) == set(FIELDS)
    assert all(getattr(BASE, name) != value for name, value in OTHER.items())


@pytest.mark.parametrize("name", FIELDS)
def test_no_key_forgets_a_field(name: str) -> None:
    other = changed(name)
    assert alike(BASE) != alike(other)
    for but in FIELDS:
        assert (alike(BASE, but) == alike(other, but)) == (but == name)


def test_a_key_without_an_unknown_field() -> None:
    with pytest.raises(ValueError, match="no field stream"):
        alike(BASE, "stream")


@pytest.mark.parametrize("name", FIELDS)
def test_every_row_is_kept_apart(name: str) -> None:
    files = both(name)
    cells = {m.cell for m in files[0].measurements}
    rows = merge(files)
    assert len(rows) == len(cells)
    for table in (cost_table(files), gpu_table(files)):
        assert table is not None
        # By what a row is about, not by its figures, and with what stands in the title.
        about = [i for i, n in enumerate(table.names) if n in CELL_COLUMNS or n == "Model"]
        assert len({tuple(row[i] for i in about) for row in table.rows}) == len(cells)
    pairs = pair_towers(rows)
    assert {row.cell for p in pairs for row in (p.image, p.text) if row} == cells
    sizing = size(files, TARGETS)
    sized = {o.cell for o in (*sizing.options, *sizing.rejected)}
    if name == "tokens":
        assert {c.tokens for c in sized} == {77}, "the longest texts"
    else:
        assert sized == cells
    bars = [c for c in speed_charts(rows, LABELS) if isinstance(c, BarChart)]
    assert sum(len(group) for chart in bars for _, group in chart.groups) == len(cells)
    assert len({chart.title for chart in bars}) == len(bars)
    for chart in bars:
        assert all(len({b.label for b in group}) == len(group) for _, group in chart.groups)


@pytest.mark.parametrize("name", FIELDS)
def test_only_rivals_are_compared(name: str) -> None:
    first, second = merge([result([timed(BASE, [0.2] * 6), timed(changed(name), [0.1] * 6)])])
    compared = name in ("runtime", "precision", "input")
    assert (speed_ratio(first, second) is not None) == compared
    assert bool(speed_findings([first, second], LABELS)) == compared


@pytest.mark.parametrize(
    "name", ["side", "batch", "threads", "tokens", "streams", "scenario", "instances"]
)
def test_accuracy_stands_beside_a_tower_however_it_is_driven(name: str) -> None:
    """A score belongs to a model as it is run, not to the load under which its cost was taken."""
    other = changed(name)
    lost = score(BASE, 0.5, baseline_value=0.6, difference=-0.1, diff_ci95=(-0.11, -0.09))
    files = [result([timed(other, [0.1] * 6), memory(other, 100)], [lost])]
    table = summary(files)
    assert [row[table.names.index("cifar10 top-1")].value for row in table.rows] == [0.5]
    (plan,) = size(files, Targets(float(other.side == "image"), float(other.side == "text"))).plans
    assert "onnx fp32 loses accuracy on cifar10" in plan.notes


@pytest.mark.parametrize("name", ["runtime", "precision", "input"])
def test_accuracy_of_a_tower_that_runs_in_another_way_is_not_shown(name: str) -> None:
    other = changed(name)
    files = [result([timed(other, [0.1] * 6), memory(other, 100)], [score(BASE, 0.5)])]
    table = summary(files)
    assert all(row[table.names.index("cifar10 top-1")].missing for row in table.rows)


def test_published_figures_stand_beside_a_closed_loop() -> None:
    loops = [cell(batch=4, streams=2), cell(batch=8, scenario="server")]
    files = [result([memory(c, 100) for c in loops])]
    beside = published_table(files, [BasicStatistics("M::w", 1, 1.0, 1.0)])
    assert beside is not None
    assert [row[beside.names.index("Batch")].value for row in beside.rows] == [4]


def test_the_summary_keeps_scenarios_together() -> None:
    cells = [cell(batch=b, scenario=s) for b in (1, 8) for s in ("closed-loop", "server")]
    table = summary([result([timed(c, [0.1] * 6) for c in cells])])
    at = table.names.index("Scenario")
    assert [row[at].value for row in table.rows] == ["closed-loop"] * 2 + ["server"] * 2


# --- streams -------------------------------------------------------------------------------


def driven(*counts: int, **more: Any) -> list[ResultFile]:
    """ONNX and PyTorch in turns, 100 ms a batch of 8 in one stream, 120 ms in two."""
    rows = []
    for streams in counts:
        for runtime, factor in (("torch", 2), ("onnx", 1)):
            c = cell("image", runtime, batch=8, streams=streams, **more)
            load = GpuLoad(1.0, 10, energy_j=160.0)
            seconds = 0.1 * factor * (1 + (streams - 1) / 5)
            rows.append(timed(c, [seconds] * 6, group=f"s{streams}", gpu=load))
            rows.append(memory(c, 100 * factor * streams, vram_peak_bytes=MIB))
    return [result(rows)]


def test_one_stream_is_not_mentioned() -> None:
    text = render(build_report(driven(1), targets=Targets(10, 0)), "text")
    assert "stream" not in text.lower()


def test_tables_say_streams() -> None:
    files = driven(1, 2, device="cuda")
    for table in (cost_table(files), gpu_table(files), summary(files)):
        assert table is not None
        assert [row[table.names.index("Streams")].value for row in table.rows] == [1, 1, 2, 2]
    for table in (cost_table(driven(2)), summary(driven(2))):
        assert "2 streams" in table.title and "Streams" not in table.names
    published = [BasicStatistics("M::w", 1, 1.0, 1.0)]
    beside = published_table(files, published)
    assert beside is not None and "Streams" not in beside.names, "the published way comes first"


def test_findings_say_streams() -> None:
    rows = merge(driven(1, 2))
    assert speed_findings(rows, LABELS) == [
        "M::w, image tower on cpu: onnx fp32 is fastest at batch 8 (80.0 images/s).",
        "M::w, image tower on cpu in 2 streams: onnx fp32 is fastest at batch 8 (133 images/s).",
    ]
    assert memory_findings(merge(driven(2)), LABELS) == [
        "M::w on cpu, least peak RAM: image tower 200.0 MiB (onnx fp32, batch 8 in 2 streams; "
        "torch fp32 400.0 MiB)."
    ]


def test_threads_are_told_where_they_differ() -> None:
    rows = merge([*driven(1), *driven(1, threads=4)])
    assert [line.split(": onnx")[0] for line in speed_findings(rows, LABELS)] == [
        "M::w, image tower on cpu, 2 threads",
        "M::w, image tower on cpu, 4 threads",
    ]


def test_problems_name_their_streams() -> None:
    files = [result([timed(cell(streams=2), []), timed(cell(), [])])]
    told = [line for line in cost_table(files).caveats if "usable" in line]
    assert [line.split(": time")[0] for line in told] == [
        "M::w image torch fp32 cpu batch 1",
        "M::w image torch fp32 cpu batch 1 in 2 streams",
    ]


def test_charts_say_streams() -> None:
    files = [*driven(1, 2)]
    charts = speed_charts(merge(files), LABELS)
    assert [chart.title.split(": ")[1] for chart in charts] == [
        "M::w · image tower · cpu · 2 threads",
        "M::w · image tower · cpu · 2 threads in 2 streams",
    ]
    several = [timed(cell(batch=b, streams=s), [0.1] * 6) for b in (1, 8) for s in (1, 2)]
    lines = [c for c in speed_charts(merge([result(several)]), LABELS) if isinstance(c, LineChart)]
    assert [len(line.points) for chart in lines for line in chart.lines] == [2, 2]


def test_energy_counts_each_run_of_any_stream_once() -> None:
    one, _, two, _ = merge(driven(1, 2))
    # 160 J / (10 runs x 8), times 1000: the runs are those of all streams
    assert energy_per_1000_j(one) == energy_per_1000_j(two) == 2000.0


def test_sizing_counts_every_stream() -> None:
    sizing = size(driven(2), Targets(100, 0))
    assert [(o.cell.setup, o.cell.streams) for o in sizing.options][1:] == [("onnx fp32", 2)]
    # 2 x 8 images in 120 ms; 100 / (133.3 x 0.7) = 1.07
    assert sizing.options[1].rate_per_s == pytest.approx(16 / 0.12)
    (plan,) = sizing.plans
    assert plan.image is not None and plan.image.replicas == 2
    assert plan.notes == ()
    tables = sizing_tables(sizing, {"env-a": ("E1", None)})
    assert "2 x onnx fp32, batch 8 in 2 streams" in tables[0].texts[0]
    assert "2 streams" in tables[1].title


# --- what is the baseline ------------------------------------------------------------------


def test_the_baseline_is_a_precision_s_row_not_a_name_s_end() -> None:
    assert is_baseline(cell())
    for other in (
        cell(runtime="onnx"),
        cell(precision="tf32"),
        cell(precision="another-fp32"),
        cell(runtime="torch-compile"),
    ):
        assert not is_baseline(other)


@pytest.mark.parametrize("fmt", FORMATS.names())
def test_formats_take_streams(fmt: str) -> None:
    assert render(build_report([*realistic(), *driven(1, 2)]), fmt)
