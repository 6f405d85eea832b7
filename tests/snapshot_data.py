"""Result files whose reports are compared with stored ones: nothing in them was measured."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

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
from rich.console import Console
from typer.testing import CliRunner

from clipperf import cli
from clipperf.commands.options import print_tables
from clipperf.inspect.doctor import Check
from clipperf.inspect.inspection import Inspection
from clipperf.models import catalog
from clipperf.nouns.artifact import ShapeRange, TensorSpec
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import GpuLoad, Measurement, ResultFile, Score
from clipperf.nouns.tuning import Trial, TunedTower, Tuning
from clipperf.report.build import build_report
from clipperf.report.doctor import machine_table, runtimes_table
from clipperf.report.document import plain_json
from clipperf.report.format import render
from clipperf.report.inspection import inspection_table
from clipperf.report.models import models_json, models_table
from clipperf.report.records import environments
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.tables import sizing_tables
from clipperf.report.sizing.types import Targets
from clipperf.report.table import Table
from clipperf.report.tables import cost_table
from clipperf.report.terminal import rich_table
from clipperf.report.tuning import tuning_table
from clipperf.serialize import to_json

ODD = "<script>alert('x')</script>|[red]\x1b[31m\n::w"
GPU_MACHINE = dataclasses.replace(OTHER, driver="580.1", git_sha="abc1234")

Case = tuple[list[ResultFile], Targets | None]


def cases() -> dict[str, Case]:
    """Result files, and what a deployment must do, by the name of the stored output."""
    return {
        "realistic": (realistic(), Targets(200, 100, slo_s=0.5, ram_bytes=4 * GIB)),
        "gpu": (_gpu(), Targets(1750, 70, slo_s=0.4)),
        "machines": (_machines(), Targets(30, 0)),
        "failed": ([_failed()], None),
        "scores": ([_scores()], None),
        "odd": ([_odd()], Targets(1, 0)),
        "driven": ([_driven()], Targets(100, 100, slo_s=0.3)),
    }


def _spread(middle: float, calls: int, width: float = 0.04) -> list[float]:
    """Run times around a middle, the same in every run of the tests."""
    return [middle * (1 + width * ((i * 7) % 11 - 5) / 5) for i in range(calls)]


def _gpu() -> list[ResultFile]:
    """A GPU's figures: throttling, a slow host, uint8 pixels, precisions without a row."""
    load = GpuLoad(
        seconds=2.0,
        runs=50,
        energy_j=600.0,
        energy_source="counter",
        power_w=300.4,
        sm_clock_mhz=(1410, 1980),
        temperature_c=71,
        throttle=("power cap",),
    )
    cool = GpuLoad(2.0, 40, None, "power samples", 80.0, (1980, 1980), None)
    phases = {
        "h2d": (0.001, 0.002, 0.003),
        "compute": (0.010, 0.012, 0.011),
        "d2h": (0.0001, 0.0003, 0.0002),
        "host": (0.0150, 0.0170, 0.0160),
    }
    rows: list[Measurement] = []
    setups: list[tuple[str, str, dict[str, Any], float]] = [
        ("torch", "fp32", {}, 0.064),
        ("torch", "fp16", {}, 0.032),
        ("trt", "tf32", {}, 0.030),
        ("trt", "fp16", {}, 0.016),
        ("trt", "fp16", {"input": "uint8"}, 0.0155),
        ("trt", "fp8", {}, 0.012),
        ("trt", "int4", {}, 0.011),
    ]
    for side in ("image", "text"):
        for batch in (8, 64):
            for i, (runtime, precision, more, seconds) in enumerate(setups):
                if side == "text" and (more or batch > 8 or precision != "fp16"):
                    continue
                c = cell(side, runtime, precision, batch, "N::w", device="cuda", **more)
                rows.append(
                    timed(
                        c,
                        _spread(seconds * batch / 8, 140),
                        [n // 10 for n in range(140)],
                        f"{side}{batch}",
                        env_id=GPU_MACHINE.id,
                        gpu=(load, cool, None)[i % 3],
                        phases_s=phases if i % 2 else None,
                        error="GPU figures missing: no counter" if i == 4 else None,
                    )
                )
                rows.append(
                    memory(
                        c,
                        900 + batch + 10 * i,
                        env_id=GPU_MACHINE.id,
                        vram_peak_bytes=(700 + batch * 4) * MIB,
                        vram_source="nvml-process" if i % 2 else "nvml-device-delta",
                        vram_allocated_bytes=640 * MIB if i % 2 else None,
                    )
                )
    kept = [
        score(
            cell("image", "trt", precision, 8, "N::w", device="cuda"),
            0.6 + difference,
            baseline_runtime="torch",
            baseline_value=0.6,
            difference=difference,
            diff_ci95=(difference - 0.004, difference + 0.004),
            flips=20,
            env_id=GPU_MACHINE.id,
        )
        for precision, difference in (("fp16", 0.0), ("fp8", -0.03))
    ]
    return [result(rows, kept, environments=(GPU_MACHINE,), notes=("warmed up",))]


def _machines() -> list[ResultFile]:
    """Two machines; ratios over fp16, few calls, unstable rows, several text lengths."""
    here = [
        timed(cell(precision="fp16"), _spread(0.2, 7)),
        timed(cell(runtime="onnx", precision="fp16"), _spread(0.1, 7), stable=False),
        timed(cell(runtime="onnx", precision="int8", batch=8), [0.2, 0.21]),
        memory(cell(precision="fp16"), 500),
        memory(cell(runtime="onnx", precision="int8"), 90),
        *(
            timed(cell("text", runtime, tokens=tokens), _spread(seconds, 9), group=f"t{tokens}")
            for tokens in (8, 77)
            for runtime, seconds in (("torch", tokens / 1000), ("onnx", tokens / 1500))
        ),
    ]
    there = [
        timed(cell(), _spread(0.01, 12), env_id=OTHER.id),
        memory(cell(), 300, env_id=OTHER.id, vram_peak_bytes=10 * MIB),
        timed(cell(batch=8, model="Other::tag"), [0.01] * 12, env_id="env-lost"),
    ]
    return [
        result(here),
        result(there, environments=(OTHER,), path="b.json", created_utc="2026-01-02T00:00:00Z"),
    ]


def _failed() -> ResultFile:
    return result(
        [
            broken(cell(), "out of memory"),
            broken(cell(runtime="onnx", precision="bf16"), "no bf16 here", "unsupported"),
        ]
    )


def _scores() -> ResultFile:
    """Every verdict, two datasets of which one changed, chance, random weights."""
    found: list[Score] = []
    for precision, difference, ends in (
        ("fp32", 0.0, (0.0, 0.0)),
        ("fp16", -0.004, (-0.02, 0.01)),
        ("int8", -0.05, (-0.06, -0.04)),
        ("int8w", -0.001, None),
    ):
        found += [
            score(
                cell(runtime="onnx", precision=precision),
                0.6 + difference,
                metric=metric,
                baseline_runtime="torch",
                baseline_value=0.6,
                difference=difference,
                diff_ci95=ends,
                flips=20,
            )
            for metric in ("zeroshot top-1", "image recall@1")
        ]
    found += [
        score(cell(), 0.6, metric="zeroshot top-1"),
        score(cell(), 0.6, metric="image recall@1"),
        score(cell(runtime="openvino"), math.nan),
        score(cell(runtime="openvino", precision="int8"), 0.5, baseline_value=0.6),
        score(cell(), 0.11, dataset="flowers", chance=0.1),
        score(cell(), 0.12, dataset="flowers", dataset_sha256="e" * 64, chance=None),
        score(cell(model="R::random:0"), 0.1, random_weights=True),
    ]
    return result(scores=found, kind="eval", command="clipperf eval M::w", notes=("30 skipped",))


def _odd() -> ResultFile:
    """Names, errors and a command that try to be more than text."""
    c = cell(model=ODD)
    return result(
        [timed(c, [0.1] * 6), memory(c, 100), broken(cell("text", model=ODD), ODD)],
        scores=[score(c, dataset=ODD)],
        command=f"clipperf profile {ODD}",
        notes=(ODD,),
    )


def _driven() -> ResultFile:
    """Two streams, a scenario of its own, two text lengths, and a score taken without them."""
    rows: list[Measurement] = []
    for scenario, streams in ((CLOSED_LOOP, 1), (CLOSED_LOOP, 2), ("server", 2)):
        for side, tokens in (("image", None), ("text", 16), ("text", 77)):
            for runtime, seconds in (("torch", 0.2), ("onnx", 0.1)):
                more = {"streams": streams, "scenario": scenario, "tokens": tokens}
                c = cell(side, runtime, batch=8, **more)
                run_s = _spread(seconds * (1 + 0.3 * (streams - 1)) * (tokens or 77) / 77, 9)
                rows += [timed(c, run_s, group=f"{more}"), memory(c, 100 + 50 * streams)]
    c = cell(runtime="onnx", batch=32)
    lost = score(c, 0.5, baseline_value=0.6, difference=-0.1, diff_ci95=(-0.12, -0.08), flips=110)
    return result(rows, [lost])


def tuning() -> Tuning:
    """A tuning of one tower on several streams, with candidates that were not chosen."""

    def tried(verdict: str, precision: str, rate: float | None, streams: int = 1) -> Trial:
        c = cell("text", "onnx", precision, 16, streams=streams, tokens=16)
        interval = None if rate is None else (rate * 0.9, rate * 1.1)
        return Trial(c, verdict, rate, interval, 0.0123, 0.5, 30)

    trials = (
        tried("", "int8", 1234.5, 2),
        tried("slower than onnx int8", "int8", 1000.0),
        tried("lost accuracy: -3.0 points", "int8w", None),
        tried("failed: no memory\nand more", "fp32", None),
    )
    best = trials[0]
    chosen = TunedTower(best.cell, "text", "k", 1234.5, (1111.1, 1358.0), 0.0123, 300 * MIB)
    spec = ModelSpec("M::random:0", "open_clip", "M", "random:0", 224, 77, 512)
    return Tuning(
        2, "tuning", "clipperf tune", "2026-01-01T00:00:00Z", ENVIRONMENT, spec, None, 0.01, 60.0,
        12.5, (chosen,), trials,
    )  # fmt: skip


TENSOR = TensorSpec("in", "float32", ("batch", 3, 32, 32))
PROFILE = ShapeRange("in", (1, 3, 32, 32), (8, 3, 32, 32), (64, 3, 32, 32))
CHECKS = (Check("onnx", "cpu", True, "1.31", ""), Check("trt", "cuda", False, "no GPU", "buy one"))

# --- what is stored ------------------------------------------------------------------------

FOLDER = Path(__file__).parent / "snapshots"
SHOWN = {
    "realistic": ("text", "md", "csv", "html"),
    "gpu": ("text", "csv", "html"),
    "machines": ("text", "json", "html"),
    "failed": ("text", "md", "json", "html"),
}
"""Formats whose output is stored; of the other cases text, Markdown and HTML."""


def outputs() -> dict[str, str]:
    """Every stored output as the code at hand makes it, by its file's name."""
    found: dict[str, str] = {}
    for name, (files, targets) in cases().items():
        document = build_report(files, PUBLISHED, targets, title=ODD if name == "odd" else "T")
        # Raw data in a page is the results again.
        document = dataclasses.replace(document, results=())
        for fmt in SHOWN.get(name, ("text", "md", "html")):
            found[f"report-{name}.{fmt}"] = render(document, fmt)
        if targets is not None:
            sizing = size(files, targets)
            found[f"size-{name}.txt"] = printed(*sizing_tables(sizing, environments(files)))
            if name == "machines":
                found[f"size-{name}.json"] = as_json(plain_json(sizing))
    found["cost-colours.txt"] = coloured(cost_table([*_machines(), _failed()]))
    found["tune.txt"] = printed(tuning_table(tuning()))
    found["doctor.txt"] = printed(runtimes_table(CHECKS), machine_table({"RAM": "4 GiB"}))
    found["inspect.txt"] = printed(inspection_table(inspection()))
    listed = catalog.search("clipperf-sample") + catalog.search("RN50")
    found["models.txt"] = printed(models_table(listed))
    found["models.json"] = as_json(models_json(listed[:1]))
    parts = [
        f"{name} {part}"
        for name, module in cli.COMMANDS.items()
        for part in getattr(module, "COMMANDS", ())
    ]
    for name in ("", *cli.COMMANDS, *parts):
        found[f"help-{name.replace(' ', '-') or 'clipperf'}.txt"] = help_of(name)
    return found


def inspection() -> Inspection:
    """A folder with one whole tower and one damaged plan."""
    tower = Inspection(
        "f/image/model.onnx", "onnx", 5 * MIB, "fp32", (TENSOR,), (TENSOR,), facts={"opset": "18"}
    )
    plan = Inspection(
        "f/text/model.plan", "plan", 3000, profile=(PROFILE,), problems=("cut short",)
    )
    return Inspection("f", "artifact", 6 * MIB, problems=("text: cut short",), parts=(tower, plan))


def printed(*tables: Table) -> str:
    """Tables as a command prints them into a pipe."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.delenv("COLUMNS", raising=False)
        print_tables(*tables)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def coloured(table: Table) -> str:
    """A table as a command prints it into a terminal."""
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="standard", no_color=False, width=120
    )
    console.print(rich_table(table, console.width))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def as_json(value: Any) -> str:
    """Plain values as a command prints them."""
    return json.dumps(to_json(value), indent=1, ensure_ascii=False, default=str) + "\n"


def help_of(command: str) -> str:
    """The help of one command, "" for the program's."""
    words = [*command.split(), "--help"]
    done = CliRunner().invoke(cli.app, words, prog_name="clipperf", terminal_width=100)
    assert done.exit_code == 0
    return done.stdout


def write() -> None:
    """Store the outputs of the code at hand."""
    for name, text in outputs().items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="")
