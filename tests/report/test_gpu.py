"""The report's GPU figures, worked out by hand."""

from __future__ import annotations

import csv
import io
import math

import pytest
from report_data import MIB, cell, memory, result, timed

from clipperf.nouns.result import GpuLoad, Measurement, ResultFile
from clipperf.report.build import build_report
from clipperf.report.format import render
from clipperf.report.gpu import energy_per_1000_j, gpu_table, host_gap, phase_s
from clipperf.report.records import Row, merge
from clipperf.report.table import Table
from clipperf.report.tables import cost_table

LOAD = GpuLoad(
    seconds=2.0,
    runs=50,
    energy_j=600.0,
    energy_source="counter",
    power_w=300.4,
    sm_clock_mhz=(1410, 1980),
    temperature_c=71,
    throttle=("power cap",),
)
PHASES = {
    "h2d": (0.001, 0.002, 0.003),
    "compute": (0.010, 0.012, 0.011),
    "d2h": (0.0001, 0.0003, 0.0002),
    "host": (0.0150, 0.0170, 0.0160),
}


def on_gpu(batch: int = 8, runtime: str = "trt", **more: object) -> Measurement:
    return timed(cell(batch=batch, runtime=runtime, device="cuda"), [0.016] * 6, **more)


def one_row(measurement: Measurement) -> Row:
    return merge([result([measurement])])[0]


def column(report: Table, name: str) -> list[str]:
    at = report.names.index(name)
    return [row[at] for row in report.texts]


def test_energy_of_instances_counts_each_embedding_once() -> None:
    """50 calls of 8 are 400 embeddings whoever made them: 600 J for these are 1500 J for 1,000."""
    for more in ({}, {"instances": 2}):
        c = cell(batch=8, runtime="trt", device="cuda", **more)
        found = energy_per_1000_j(one_row(timed(c, [0.016] * 6, gpu=LOAD)))
        assert found == pytest.approx(1500.0), more


@pytest.fixture
def full() -> list[ResultFile]:
    """One row with everything and one on the same GPU with nothing of it but VRAM."""
    bare = cell(batch=8, device="cuda")
    return [
        result(
            [
                on_gpu(gpu=LOAD, phases_s=PHASES),
                memory(
                    cell(batch=8, runtime="trt", device="cuda"),
                    100,
                    vram_peak_bytes=900 * MIB,
                    vram_source="nvml-process",
                    vram_allocated_bytes=640 * MIB,
                ),
                timed(bare, [0.032] * 6),
                memory(bare, 300, vram_peak_bytes=1500 * MIB, vram_source="nvml-device-delta"),
            ]
        )
    ]


def test_figures_of_one_row() -> None:
    row = one_row(on_gpu(gpu=LOAD, phases_s=PHASES))
    # 600 J / (50 runs * 8) * 1000
    assert energy_per_1000_j(row) == 1500.0
    assert [phase_s(row, name) for name in PHASES] == [0.002, 0.011, 0.0002, 0.016]
    # The sums of the runs are 11.1, 14.3 and 14.2 ms: 16 / 14.2 - 1.
    assert host_gap(row) == pytest.approx(16 / 14.2 - 1)


def test_what_was_not_measured_is_none() -> None:
    empty = one_row(on_gpu())
    blank = one_row(on_gpu(gpu=GpuLoad(seconds=2.0, runs=50), phases_s={}))
    odd = one_row(on_gpu(gpu=GpuLoad(1.0, 0, math.nan), phases_s={"host": (0.1,), "h2d": ()}))
    for row in (empty, blank, odd):
        assert energy_per_1000_j(row) is host_gap(row) is phase_s(row, "compute") is None


def test_table(full: list[ResultFile]) -> None:
    report = gpu_table(full)
    assert report is not None
    assert column(report, "Runtime") == ["torch fp32", "trt fp32"]
    assert column(report, "Copy in ms") == ["-", "2.00"]
    assert column(report, "Compute ms") == ["-", "11.0"]
    assert column(report, "Copy out ms") == ["-", "0.200"]
    assert column(report, "Host ms") == ["-", "16.0"]
    assert column(report, "J per 1000") == ["-", "1500"]
    assert column(report, "Power W") == ["-", "300"]
    assert column(report, "SM MHz") == ["-", "1410 to 1980"]
    assert column(report, "Max °C") == ["-", "71"]
    assert column(report, "VRAM MiB") == ["1500", "900"]
    assert column(report, "VRAM by") == ["nvml-device-delta", "nvml-process"]
    assert column(report, "Allocated MiB") == ["-", "640"]
    assert column(report, "Throttled by") == ["", "power cap"]
    assert "cuda" in report.title
    assert any("by its counter" in line for line in report.caveats)


def test_no_table_and_no_caveat_without_a_gpu() -> None:
    files = [result([timed(cell(), [0.1] * 6), memory(cell(), 100)])]
    assert gpu_table(files) is None
    document = build_report(files)
    assert "gpu" not in [section.key for section in document.sections]
    assert not any("GPU" in line for line in document.caveats)


def test_empty_columns_are_not_shown() -> None:
    report = gpu_table([result([on_gpu(gpu=GpuLoad(2.0, 50, power_w=80.0))])])
    assert report is not None
    assert column(report, "Power W") == ["80.0"]
    assert not {"J per 1000", "Host ms", "VRAM MiB", "VRAM by", "Throttled by"} & set(report.names)


def test_what_nvml_did_not_tell_is_said_once_for_all_rows() -> None:
    lacks = GpuLoad(2.0, 50, missing=("power: NVML says Not Supported",))
    rows = [on_gpu(gpu=lacks), on_gpu(runtime="ort-cuda", gpu=lacks)]
    report = gpu_table([result(rows)])
    assert report is not None
    assert [line for line in report.caveats if "lack" in line] == [
        "The GPU's meters lack power: NVML says Not Supported (M::w image ort-cuda fp32 cuda "
        "batch 8, M::w image trt fp32 cuda batch 8)."
    ]


def test_throttling_names_reason_and_rows(full: list[ResultFile]) -> None:
    throttled = [c for c in cost_table(full).caveats if "throttled" in c]
    assert throttled == [
        "The GPU throttled under load (power cap): M::w image trt fp32 cuda batch 8. The figures "
        "hold for this board's power and cooling."
    ]
    many = [on_gpu(batch, gpu=LOAD) for batch in (1, 2, 4, 8, 16, 32)]
    line = next(c for c in cost_table([result(many)]).caveats if "throttled" in c)
    assert "batch 8 and 2 more." in line and "batch 16" not in line


@pytest.mark.parametrize(("host_s", "told"), [(0.0109, False), (0.0112, True)])
def test_a_slow_host_is_told(host_s: float, told: bool) -> None:
    phases = {"h2d": (0.001,), "compute": (0.008,), "d2h": (0.001,), "host": (host_s,)}
    report = cost_table([result([on_gpu(phases_s=phases)])])
    assert any("more than 10 % over copies" in c for c in report.caveats) == told


def test_missing_gpu_figures_say_why_and_are_no_failure() -> None:
    report = cost_table([result([on_gpu(error="GPU figures missing: told to fail")])])
    assert any(c.endswith("batch 8: GPU figures missing: told to fail") for c in report.caveats)
    assert "Note" not in report.names


def test_formats_hold_the_figures(full: list[ResultFile]) -> None:
    document = build_report(full)
    assert [section.key for section in document.sections if section.key == "gpu"] == ["gpu"]
    rows = list(csv.DictReader(io.StringIO(render(document, "csv"))))
    trt = next(r for r in rows if r["runtime"] == "trt")
    assert float(trt["energy_per_1000_j"]) == 1500.0
    assert float(trt["phase_compute_s"]) == 0.011
    assert trt["throttle"] == "power cap"
    assert trt["vram_allocated_bytes"] == str(640 * MIB)
    assert next(r for r in rows if r["runtime"] == "torch")["energy_per_1000_j"] == ""
    assert "Copy in ms" in render(document, "html")


def test_ratio_over_torch_in_the_same_precision() -> None:
    def half(runtime: str, seconds: float, precision: str = "fp16") -> Measurement:
        where = cell(batch=8, runtime=runtime, precision=precision, device="cuda")
        return timed(where, [seconds] * 6, phases_s=PHASES)

    found = result([half("torch", 0.032, "fp32"), half("torch", 0.016), half("trt", 0.008)])
    by_engine = {row.setup: row for row in merge([found])}
    assert by_engine["trt fp16"].ratio == pytest.approx(4.0)
    assert by_engine["trt fp16"].peer_ratio == pytest.approx(2.0)
    assert by_engine["torch fp16"].ratio == pytest.approx(2.0)
    assert by_engine["torch fp16"].peer_ratio is None
    assert by_engine["torch fp32"].peer_ratio is None
    report = gpu_table([found])
    assert report is not None
    shown = dict(
        zip(column(report, "Runtime"), column(report, "vs PyTorch same precision"), strict=True)
    )
    assert shown["trt fp16"].startswith("2.00x")
    assert shown["torch fp16"] == "-"
