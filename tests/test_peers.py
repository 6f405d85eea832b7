"""benchmarks/peers.py: turns, tables from canned figures, refusals, and that its parts compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from clipperf.report.table import Table
from clipperf.serialize import to_json
from clipperf.system import env

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted([*FOLDER.glob("peers*.py"), FOLDER / "roofline.py"])


@pytest.fixture(scope="module")
def table() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import peers_table

        yield peers_table


@pytest.fixture(scope="module")
def measure() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import peers_measure

        yield peers_measure


def speed_row(work: str, candidate: str, call_s: float, blocks: int = 6) -> dict[str, Any]:
    return {"work": work, "candidate": candidate, "blocks": [[call_s] * 3] * blocks}


@pytest.fixture
def data() -> dict[str, Any]:
    """Eager takes 0.4 s for 8 images, clipperf 0.1 s, optimum 0.25 s in fp32 and 0.05 s in int8."""
    images, texts = "images, batch 8", "texts of 8 tokens, batch 64"
    return {
        "speed": [
            speed_row(images, "PyTorch eager", 0.4),
            speed_row(images, "clipperf onnx int8", 0.1),
            speed_row(images, "optimum-onnx", 0.25),
            speed_row(images, "optimum-onnx int8", 0.05),
            speed_row(texts, "PyTorch eager", 2.0),
            speed_row(texts, "clipperf onnx int8", 0.1),
            {"work": texts, "candidate": "optimum-onnx", "blocks": [], "error": "it died"},
        ],
        "precision": {
            "PyTorch eager": "fp32", "clipperf onnx int8": "int8",
            "optimum-onnx": "fp32", "optimum-onnx int8": "int8",
        },
        "roofline": [
            {"fp32_torch_flops": 8e11, "int8_ort_flops": 1e12, "read_B": 1e10, "copy_B": 9e9},
            {"fp32_torch_flops": 7e11, "int8_ort_flops": 2e12, "read_B": 9e9, "copy_B": 8e9},
        ],
        "image_flops": 1e10,
        "image_parameters": 100_000_000,
        "skipped": {"clipperf openvino int8": "openvino is not installed"},
        "candidates": [{"candidate": "faster-clip", "side": "image", "error": "no wheel"}],
        "checks": [
            {"candidate": "torch.compile", "kind": "image", "texts": "", "least": 0.9999,
             "min_cosine": 0.5, "passed": False},
        ],
        "memory": [
            {"candidate": "clipperf onnx int8", "side": "image", "rss_bare_bytes": 20_000_000,
             "rss_load_bytes": 200_000_000, "rss_run_bytes": 261_000_000,
             "weight_bytes": 100_000_000, "load_s": 0.5},
            {"candidate": "open_clip", "side": "image", "error": "killed"},
        ],
        "exports": {
            "optimum": {"seconds": 30.0, "rss_bytes": 2**30, "anonymous_bytes": 2**29},
            "torch": {"error": "no disk"},
        },
    }  # fmt: skip


def cells(report: Table, *starts: str) -> tuple[str, ...]:
    """The one row whose first cells are these."""
    (row,) = [row for row in report.texts if row[: len(starts)] == starts]
    return row[len(starts) :]


def test_turns_go_forwards_and_backwards(measure: ModuleType) -> None:
    assert list(measure.turns(["a", "b", "c"], 3)) == [
        *[(0, "a"), (0, "b"), (0, "c")],
        *[(1, "c"), (1, "b"), (1, "a")],
        *[(2, "a"), (2, "b"), (2, "c")],
    ]


def test_speed_table(table: ModuleType, data: dict[str, Any]) -> None:
    report = table.speed(data)
    rate, ratio, share = cells(report, "images, batch 8", "clipperf onnx int8")
    assert rate == "80.0 [80.0, 80.0]"
    assert ratio == "4.00x [4.00, 4.00]"
    # 8 images of 1e10 operations in 0.1 s are 8e11 a second; the better int8 peak is 2e12.
    assert share == "40.0 %"
    assert cells(report, "images, batch 8", "PyTorch eager")[2] == "25.0 %"
    assert cells(report, "texts of 8 tokens, batch 64", "clipperf onnx int8")[1].startswith(
        "20.00x"
    )
    assert "it died" in cells(report, "texts of 8 tokens, batch 64", "optimum-onnx")[0]


def test_overview_has_a_column_for_each_measured_workload(
    table: ModuleType, data: dict[str, Any]
) -> None:
    report = table.overview(data)
    assert report.names == ("runtime", "images, batch 8", "texts of 8 tokens, batch 64")
    assert cells(report, "clipperf onnx int8") == ("80.0 (4.00x)", "640 (20.00x)")
    assert cells(report, "optimum-onnx") == ("32.0 (1.60x)", "-")


def test_who_is_left_out_is_named_with_the_reason(table: ModuleType, data: dict[str, Any]) -> None:
    notes = "\n".join(table.speed(data).caveats)
    assert "clipperf openvino int8: openvino is not installed" in notes
    assert "faster-clip, image: no wheel" in notes
    assert "torch.compile, image: its embeddings differ" in notes and "0.5000" in notes


def test_goals(table: ModuleType, data: dict[str, Any]) -> None:
    report = table.goals(data)
    over_eager = cells(report, "images over PyTorch eager", "images, batch 8")
    assert over_eager == ("3.5x", "4.00x [4.00, 4.00]", "met", "clipperf onnx int8 / PyTorch eager")
    fp32 = cells(report, "images over optimum-onnx fp32 at its best", "images, batch 8")
    assert fp32 == (
        "3x",
        "2.50x [2.50, 2.50]",
        "missed by 16.7 %",
        "clipperf onnx int8 / optimum-onnx",
    )
    both = cells(report, "images over optimum-onnx at its best, its int8 too", "images, batch 8")
    assert both[1].startswith("0.50x") and both[3].endswith("/ optimum-onnx int8")
    short = ("texts of 8 tokens over PyTorch eager", "texts of 8 tokens, batch 64")
    assert cells(report, *short)[1].startswith("20.00x")
    # Not measured at all at batch 1: no row. Texts over optimum-onnx: nothing to compare with.
    assert not [row for row in report.texts if row[1] == "images, batch 1"]
    lost = cells(report, "texts over optimum-onnx fp32 at its best", short[1])
    assert lost[2] == "not measured"
    # 261 MB at the highest, 100 MB of them weights: 11 MB more than the 150 MB allowed.
    ram = cells(report, "peak RAM over weights", "clipperf onnx int8, image")
    assert ram == ("+150 MB", "+161 MB", "missed by 11 MB", "-")


def test_memory_exports_and_roofline(table: ModuleType, data: dict[str, Any]) -> None:
    assert cells(table.memory(data), "open_clip", "image")[0] == "failed: killed"
    assert cells(table.exports(data), "optimum") == ("30.0", "1024", "512")
    assert "no disk" in cells(table.exports(data), "torch")[0]
    ceilings = table.roofline(data)
    assert cells(ceilings, "GEMM int8") == ("2000 GOP/s",)
    # fp32, one image: 1e10 / 8e11 = 12.5 ms of arithmetic, 4e8 / 1e10 = 40 ms of reading.
    assert cells(ceilings, "images, batch 1, fp32, at most") == ("25.0 /s",)
    assert cells(ceilings, "images, batch 8, fp32, at most") == ("80.0 /s",)


def test_tables_of_a_file_are_printed_again(
    table: ModuleType, data: dict[str, Any], tmp_path: Path
) -> None:
    whole = {
        "environment": to_json(env.capture()),
        "threads": 2,
        "command": "x",
        "caption_tokens": [10, 12],
    }
    (tmp_path / "a.json").write_text(json.dumps({"model": "M", **whole, **data}))
    out = tmp_path / "a.md"
    done = run("peers.py", "--from", str(tmp_path / "a.json"), "--markdown", str(out))
    assert done.returncode == 0, done.stderr
    assert "Goals" in done.stdout
    assert "captions: 2, 10 to 12 tokens, 11.0 on average" in " ".join(done.stdout.split())
    assert "| images, batch 8 | PyTorch eager |" in out.read_text()


def test_worker_refuses_other_answers(measure: ModuleType, tmp_path: Path) -> None:
    """A candidate with other embeddings than the reference fails its check, an equal one passes."""
    rng = np.random.default_rng(0)
    right = rng.standard_normal((16, 4)).astype(np.float32)
    wrong = right + rng.standard_normal(right.shape)
    (tmp_path / "inputs" / "images").mkdir(parents=True)
    np.savez(tmp_path / "inputs" / "answers.npz", image=right)
    np.save(tmp_path / "inputs" / "pixels.npy", right)
    (tmp_path / "inputs" / "texts.json").write_text("{}")
    (tmp_path / "echo.py").write_text(
        "PACKAGES = ('numpy',)\n"
        "def open(setup):\n"
        "    plus = setup.options['plus']\n"
        "    return {'image': lambda inputs: inputs.pixels + plus}\n"
    )
    from peers_candidates import WORKS, Candidate

    bench = measure.Bench(tmp_path, sys.executable, blocks=2, sleep_s=0.0, block_s=0.0)
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join([str(tmp_path), str(FOLDER), str(FOLDER.parent)])
        patch.setattr(measure, "peers_environment", lambda env, *_: {**env, "PYTHONPATH": path})
        plus = {"same": 0.0, "other": (wrong - right).tolist()}
        some = [Candidate(k, "echo", True, {"plus": v}) for k, v in plus.items()]
        said: list[str] = []
        found = measure.measure_side(bench, some, "image", WORKS[:1], said.append)
    assert [check["passed"] for check in found["checks"]] == [True, False]
    assert any("REFUSED" in line for line in said)
    (row,) = found["speed"]
    assert row["candidate"] == "same" and [len(block) for block in row["blocks"]] == [3, 3]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_parts_compile(script: Path) -> None:
    compile(script.read_text(encoding="utf-8"), str(script), "exec")


@pytest.mark.parametrize("name", ["peers.py", "roofline.py"])
def test_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)
