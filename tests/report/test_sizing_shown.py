"""The table of benchmarks/sizing_shown.py, of results made up by hand: what stands beside what."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from report_data import ENVIRONMENT, MIB, cell, memory, result, score, timed

from clipperf.nouns.cell import Cell
from clipperf.nouns.memory import Foreseen
from clipperf.nouns.result import Measurement, ResultFile
from clipperf.nouns.serving import SERVER, Serving, ServingRun, Trial
from clipperf.system.store import SCHEMA_VERSION, read_result, write_result

pytest.importorskip("simpy")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        found = importlib.import_module("sizing_shown")
        patch.setattr(found, "ANSWERS", 2000)
        yield found


def of(side: str, batch: int, **more: object) -> Cell:
    return cell(side, "onnx", "int8", batch, "clipperf-sample", **more)  # type: ignore[arg-type]


def served(side: str, p99_s: float, **more: object) -> Measurement:
    trial = Trial(1000, 300.0, {"99": p99_s}, True, offered_per_s=300.0, batches=((4, 250),))
    run = ServingRun(Serving(slo_s=0.05, **more), (trial,), 0)  # type: ignore[arg-type]
    c = dataclasses.replace(of(side, 8), scenario=SERVER)
    return Measurement(c, "serving", "ok", ENVIRONMENT.id, serving=run)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Steps as `clipperf` leaves them: 3 ms and 1 ms an input, 300 held within 50 ms."""

    def write(name: str, *rows: Measurement, **more: object) -> None:
        path = tmp_path / f"{name}.json"
        write_result(path, result(rows, schema_version=SCHEMA_VERSION, path=str(path), **more))

    for side in ("image", "text"):
        loops = [timed(of(side, b), [0.003 + 0.001 * b] * 20) for b in (1, 4, 8, 32)]
        peaks = [memory(of(side, b), 80 + 2 * b) for b in (1, 4, 8, 32)]
        expected = Foreseen("RAM", 512 * MIB, 480 * MIB, 0.0, (1, 4, 8, 32))
        check = Measurement(
            *(of(side, 200), "check", "ok", ENVIRONMENT.id),  # type: ignore[arg-type]
            rss_peak_bytes=504 * MIB,
            foreseen=expected,
        )
        write(f"closed-{side}", *loops, *peaks, check)
        write(f"server-{side}", served(side, 0.049))
        write(f"run-{side}", served(side, 0.049, rate_per_s=200.0))
    same = score(
        of("image", 8), 0.63, baseline_value=0.63, difference=0.0, diff_ci95=(-0.004, 0.004)
    )
    write("eval", scores=[same])
    beside = [timed(of("image", 8, threads=1, instances=k), [0.01 * k] * 6) for k in (1, 2)]
    write("instances", *beside)
    return tmp_path


def test_each_number_stands_beside_what_came_of_it(script: ModuleType, folder: Path) -> None:
    def read(*names: str) -> list[ResultFile]:
        return [read_result(folder / f"{name}.json") for name in names]

    closed = read("closed-image", "closed-text")
    every = [*closed, *read("server-image", "server-text", "eval")]
    rows = {(row[0], row[2]): row for row in script.compared(folder, closed, every)}
    told = {name: row for (name, _), row in rows.items()}
    at = "image, onnx int8, batch up to 8, 200/s on one replica"
    assert told[f"{at}: SLO of 50 ms"][1:] == (
        *("kept", "server scenario", "-", "VALID, 1000 answers", "-"),
    )
    assert told[f"{at}: p99"][4].startswith("49.0 ms, +") and told[f"{at}: p99"][5] == "-"
    assert told[f"{at}: inputs a run"][4] == "4.00"
    # Single calls alone promise far more than LoadGen saw; with the other tower's harness, which is
    # alike here, the estimate is right.
    held = [row for (name, _), row in rows.items() if name.startswith("image: held/s")]
    assert held[0][2] == "times of single calls" and held[0][4].endswith("-55 %")
    assert "from the other tower" in held[1][2] and abs(int(held[1][4].split()[-2])) <= 2
    largest = told["image, onnx int8: peak of batch 200, the largest foreseen within 512.0 MiB"]
    assert largest[1] == "480.0 MiB, margin 0 B" and largest[4] == "504.0 MiB, +5 %"
    two = told["image, onnx int8: 2 replicas of 1 threads on this machine, without pause"]
    assert two[1] == "1600/s" and two[4] == "800/s, -50 %"
