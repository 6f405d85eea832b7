"""`clipperf compare` in real processes: on files made by hand, and on two real profiles."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import Cli, store_of
from report_data import cell, result, score, timed

from clipperf.nouns.result import ResultFile
from clipperf.system import store

FAST, SLOW = 0.1, 0.2


def write(path: Path, seconds: float, value: float = 0.6) -> Path:
    rows = [timed(cell(), [0.2] * 6), timed(cell(runtime="onnx"), [seconds] * 6)]
    held: ResultFile = result(
        rows, [score(cell(runtime="onnx"), value)], schema_version=store.SCHEMA_VERSION
    )
    store.write_result(path, held)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a.json", FAST), write(tmp_path / "b.json", SLOW)


def test_exit_codes(cli: Cli, files: tuple[Path, Path]) -> None:
    assert cli("compare", *files).returncode == 0
    failed = cli("compare", *files, "--fail-if", "throughput<0.95", "--fail-if", "p50>9")
    assert failed.returncode == 1 and not failed.stderr
    assert "throughput<0.95: FAILED in 1 of 2 rows: M::w image onnx fp32" in failed.stdout
    assert "p50>9: ok in 2 rows" in failed.stdout
    assert cli("compare", files[1], files[0], "--fail-if", "throughput<0.95").returncode == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["{a}"], "B is missing"),
        (["{a}", "{b}", "--fail-if", "fps<1"], "choose from: throughput, speedup, p50"),
        (["{a}", "{b}", "--fail-if", "throughput"], "METRIC<BOUND"),
        (["{a}", "{b}", "--format", "html"], "text or markdown"),
        (["{a}", "{b}", "--format", "md", "--json"], "leave one out"),
        (["{a}", "nowhere.json"], "there is no such file or folder, nor such a result"),
        (["{a}", "{empty}"], "holds no result files"),
        (["{a}", "--between", "onnx", "a:b:c:d"], "RUNTIME:PRECISION"),
        (["{a}", "--between", ":fp32", "onnx"], "RUNTIME:PRECISION"),
        (["{a}", "--between", "trt", "onnx"], "no row in common"),
        ([], "Missing argument"),
    ],
)
def test_usage_is_an_error_of_one_line(
    cli: Cli, files: tuple[Path, Path], tmp_path: Path, typed: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"a": str(files[0]), "b": str(files[1]), "empty": str(tmp_path / "empty")}
    done = cli("compare", *(word.format(**names) for word in typed))
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and said in line


def test_the_ways_to_print(cli: Cli, files: tuple[Path, Path]) -> None:
    page = cli("compare", *files, "--format", "markdown", check=True).stdout
    assert page.startswith("### clipperf compare: B beside A\n")
    assert page == cli("compare", *files, "--format", "md", check=True).stdout
    found = json.loads(cli("compare", *files, "--json", check=True).stdout)
    ratios = [row["figures"]["throughput"]["ratio"] for row in found["rows"]]
    assert ratios == [1.0, 0.5]
    text = cli("compare", *files, check=True).stdout
    assert text.index("A: ") < text.index("B over A") < text.index("Accuracy, B minus A")


def test_folders_and_names_of_the_store(cli: Cli, home: Path, tmp_path: Path) -> None:
    """A folder is all that is in it, so a profile and an eval can be one side."""
    write(tmp_path / "before" / "p.json", FAST)
    kept = write(home / "results" / "20260101-000000-profile-abc.json", SLOW, 0.5)
    done = cli("compare", tmp_path / "before", kept.stem, "--fail-if", "accuracy<-1pp")
    assert done.returncode == 1
    assert "-10.0 [-14.2, -5.8] points" in done.stdout
    assert cli("compare", tmp_path / "before", kept.name).returncode == 0


def test_two_setups_of_one_file(cli: Cli, files: tuple[Path, Path]) -> None:
    pair = "--between", "torch:fp32", "onnx:fp32"
    found = cli("compare", files[0], *pair, "--fail-if", "throughput<1.9", check=True).stdout
    assert "onnx fp32 over torch fp32" in found and "paired" in found
    assert cli("compare", files[1], *pair, "--fail-if", "throughput<1.9").returncode == 1


def test_a_real_evaluation_is_paired_by_sample(
    cli: Cli, home: Path, tmp_path: Path, samples: str, sample_artifact: Path
) -> None:
    store_of(sample_artifact, home)
    path = tmp_path / "eval.json"
    cli("eval", "clipperf-sample", "--dataset", samples, "--json", path, "--quiet", check=True)
    assert any(score.hits for score in store.read_result(path).scores)
    found = json.loads(
        cli("compare", path, "--between", "torch", "onnx", "--json", check=True).stdout
    )
    rows = [row for row in found["accuracy"] if row["basis"] == "paired"]
    assert rows
    for row in rows:
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
        assert row["low"] <= row["difference"] <= row["high"]


@pytest.mark.slow
def test_two_real_profiles_of_the_sample(
    cli: Cli, home: Path, tmp_path: Path, sample_artifact: Path
) -> None:
    """Twice the same is no regression by ten times; a rule that nothing can keep fails."""
    store_of(sample_artifact, home)
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path in paths:
        words = "profile clipperf-sample --runtime torch,onnx --tower text --batch 1 --quick"
        cli(*words.split(), "--json", path, check=True)
    rules = [
        word
        for rule in ("throughput<0.1", "p50>10", "ram>1.5", "disk>1.01", "load>100", "speedup<0.1")
        for word in ("--fail-if", rule)
    ]
    done = cli("compare", *paths, *rules, check=True)
    assert done.stdout.count(": ok in ") == 6
    found = json.loads(cli("compare", *paths, "--json", check=True).stdout)
    assert [row["cell_b"]["runtime"] for row in found["rows"]] == ["torch", "onnx"]
    for row in found["rows"]:
        seen = row["figures"]["throughput"]
        assert seen["how"] == "unpaired" and seen["low"] <= seen["ratio"] <= seen["high"]
        assert row["figures"]["disk"]["ratio"] == 1.0
    assert not found["warnings"] and not found["only_a"] and not found["only_b"]
    assert cli("compare", *paths, "--fail-if", "throughput<1000").returncode == 1
    turns = "--between", "torch:fp32", "onnx:fp32", "--json"
    paired = json.loads(cli("compare", paths[0], *turns, check=True).stdout)
    (row,) = paired["rows"]
    assert row["figures"]["throughput"]["how"] == "paired"
    measured = store.read_result(paths[0])
    from clipperf.report.records import merge

    (onnx,) = [
        r for r in merge([measured]) if r.cell == dataclasses.replace(r.cell, runtime="onnx")
    ]
    assert row["figures"]["throughput"]["ratio"] == pytest.approx(onnx.ratio)
