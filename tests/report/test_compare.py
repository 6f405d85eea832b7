"""Which rows are compared, what is warned of, and how it reads."""

from __future__ import annotations

import dataclasses
import json

import pytest
from report_data import ENVIRONMENT, OTHER, broken, cell, memory, result, score, timed

from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.from_files import FROM_FILES, FileRun, Way
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import CrossScore, Measurement
from clipperf.report.compare.comparison import compare, plain
from clipperf.report.compare.match import Setup
from clipperf.report.compare.rules import parse_rule
from clipperf.report.compare.tables import left_over, markdown, tables
from clipperf.report.document import plain_json

LATER = {"path": "b.json", "created_utc": "2026-01-02T00:00:00Z"}
OTHERS: dict[str, object] = {
    "model_id": "N::w",
    "side": "text",
    "runtime": "onnx",
    "precision": "int8",
    "device": "cuda",
    "batch": 2,
    "threads": 4,
    "tokens": 16,
    "streams": 2,
    "instances": 2,
    "input": "uint8",
    "scenario": "server",
}


def once(c: Cell, seconds: float = 0.1) -> Measurement:
    return timed(c, [seconds] * 6)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Cell)])
def test_cells_that_differ_in_anything_are_not_one(field: str) -> None:
    other = dataclasses.replace(cell(), **{field: OTHERS[field]})
    shared = cell(batch=64)
    found = compare([result([once(cell()), once(shared)])], [result([once(other), once(shared)])])
    assert [pair.cell for pair, _ in found.rows] == [shared]
    assert len(found.only_a) == len(found.only_b) == 1
    assert left_over(found)[0].startswith("Only in A: M::w image torch fp32 cpu batch 1")


def test_nothing_in_common_says_what_there_is() -> None:
    with pytest.raises(UsageError, match="no row in common") as caught:
        compare([result([once(cell())])], [result([once(cell(batch=8))])])
    assert "A has M::w image torch fp32 cpu batch 1" in str(caught.value)
    assert "B has M::w image torch fp32 cpu batch 8" in str(caught.value)
    with pytest.raises(
        UsageError, match=r"A has .* \(of torch fp32\)\. B has .* \(of onnx int8\)$"
    ):
        compare([result([once(cell())])], [result([once(cell(runtime="onnx", precision="int8"))])])
    setups = Setup("onnx", "fp32", "float32"), Setup("trt", "fp32", "float32")
    with pytest.raises(UsageError, match="of the setups that --between names"):
        compare([result([once(cell())])], [result([once(cell())])], between=setups)


def test_between_two_setups_of_one_file() -> None:
    """Towers, batches and text lengths are matched; of texts, what images are fed as is not."""
    rows = []
    for side, batch in (("image", 1), ("image", 8), ("text", 8)):
        rows += [once(cell(side, batch=batch), 0.2), once(cell(side, "onnx", batch=batch), 0.1)]
    rows.append(once(cell("image", "onnx", input="uint8"), 0.05))
    both = [result(rows)]
    setups = Setup("torch", "fp32", "float32"), Setup("onnx", "fp32", "float32")
    found = compare(both, both, between=setups)
    assert [changes["throughput"].ratio for _, changes in found.rows] == [2.0] * 3
    assert {changes["throughput"].how for _, changes in found.rows} == {"paired"}
    assert found.rows[0][0].name == ("M::w image onnx fp32 over torch fp32 cpu batch 1, 2 threads")
    assert not found.warnings and not found.only_a and not found.only_b
    bytes_ = Setup("onnx", "fp32", "uint8")
    (pair, changes), *texts = compare(both, both, between=(setups[0], bytes_)).rows
    assert pair.cell.input == "uint8" and changes["throughput"].ratio == 4.0
    assert [pair.cell.side for pair, _ in texts] == ["text"]


# --- what is warned of ---------------------------------------------------------------------


def test_another_machine_and_versions_are_said() -> None:
    moved = dataclasses.replace(
        OTHER,
        python="3.13.0",
        versions={"torch": "2.16.0", "onnxruntime-gpu": "1.31.0", "openvino": "2026.4.1"},
        git_sha="abc1234",
    )
    there = dataclasses.replace(once(cell()), env_id=moved.id)
    found = compare([result([once(cell())])], [result([there], environments=(moved,), **LATER)])
    assert list(found.warnings) == [
        "Another machine (processor Xeon Test in A, Other CPU in B; cores 8 in A, 4 in B; "
        "GPU none in A, GPU Test in B): ratios compare the machines, too.",
        "Other VRAM - in A, 8.00 GiB in B, Python 3.12.1 in A, 3.13.0 in B.",
        "Other versions: openvino none in A, 2026.4.1 in B; torch 2.15.0 in A, 2.16.0 in B.",
        "Other source of clipperf: an installed package in A, abc1234 in B.",
    ]


def test_the_same_machine_is_not() -> None:
    later = dataclasses.replace(ENVIRONMENT, created_utc="2026-02-01T00:00:00Z")
    b = result([once(cell())], environments=(later,), **LATER)
    assert not compare([result([once(cell())])], [b]).warnings


def test_a_machine_that_no_file_describes() -> None:
    there = dataclasses.replace(once(cell()), env_id="env-lost")
    (said,) = compare([result([once(cell())])], [result([there], **LATER)]).warnings
    assert said.startswith("A machine is not described in these files")


def test_other_threads_are_not_compared_and_said() -> None:
    shared = once(cell(batch=64))
    a = result([shared, once(cell()), once(cell(batch=8))])
    more = [once(cell(batch=batch, threads=4)) for batch in (1, 8)]
    found = compare([a], [result([shared, *more], **LATER)])
    assert found.warnings == (
        "Other threads: 2 in A, 4 in B, so 2 of A's rows are not compared: measure both with the "
        "same --threads.",
    )


def test_of_several_machines_the_one_that_both_have() -> None:
    here, there = once(cell(), 0.1), dataclasses.replace(once(cell(), 0.4), env_id=OTHER.id)
    a = result([here, there], environments=(ENVIRONMENT, OTHER))
    b = result([once(cell(), 0.2)], **LATER)
    found = compare([a], [b])
    assert found.rows[0][1]["throughput"].ratio == 0.5
    assert found.warnings[0].startswith("1 row was measured on several machines")


def test_models_of_one_name_that_are_others() -> None:
    spec = ModelSpec("M::w", "open_clip", "M", "w", 224, 77, 512)
    a = result([once(cell())], specs=(spec,))
    b = result([once(cell())], specs=(dataclasses.replace(spec, image_px=336),), **LATER)
    assert compare([a], [b]).warnings == (
        "Another model of the name M::w: image_px 224 in A, 336 in B.",
    )


def test_what_is_not_compared_is_said() -> None:
    same = score(cell(), 0.5)
    probe = score(cell(), 0.4, metric="share", aim="same")
    crossed = CrossScore(same, cell(runtime="onnx"), ("a", "b"), "index")
    changed = score(cell(), 0.5, dataset_sha256="e" * 64, dataset="pets")
    before = score(cell(), 0.5, dataset_sha256="f" * 64, dataset="pets")
    a = result(scores=[same, probe, before], crossed=(crossed,))
    found = compare([a], [result(scores=[same, changed], **LATER)])
    assert len(found.scores) == 1
    assert [line.split(":")[0] for line in found.warnings] == [
        "Another version (sha256) of pets",
        "Index compatibility is not compared",
        "Probes of bias are not compared",
    ]


# --- rows of their own kind ----------------------------------------------------------------


def from_files(wait_s: float) -> Measurement:
    runs = tuple(
        FileRun(way, 0.01, 0.01, (0.1,) * 6, (wait_s,) * 6, tuple(range(6)), True)
        for way in (Way("exact", 0), Way("exact", 2))
    )
    c = cell(batch=8, scenario=FROM_FILES)
    return Measurement(c, "files", "ok", ENVIRONMENT.id, file_runs=runs)


def test_ways_from_files_are_rows() -> None:
    a, b = result([from_files(0.1)]), result([from_files(0.3)], **LATER)
    found = compare([a], [b], [parse_rule("throughput<0.95")])
    # From one batch's end to the next one's: 0.2 s became 0.4 s.
    assert [changes["throughput"].ratio for _, changes in found.rows] == [0.5, 0.5]
    assert found.rows[0][1]["throughput"].interval == (0.5, 0.5)
    assert [pair.cell.scenario for pair, _ in found.rows] == [
        "from-files, exact on 0 threads",
        "from-files, exact on 2 threads",
    ]
    assert found.failed


def test_a_failed_way_from_files_is_one_that_b_lost() -> None:
    a = result([from_files(0.1), once(cell())])
    gone = dataclasses.replace(from_files(0.1), status="failed", file_runs=(), error="no memory")
    rule = parse_rule("throughput<0.95")
    found = compare([a], [result([gone, once(cell())], **LATER)], [rule])
    assert len(found.rows) == 3 and not found.only_a and not found.only_b
    assert [row.outcome for row in found.judged[0].rows] == ["ok", "lost", "lost"]


def test_accuracy_is_of_a_model_whatever_the_load() -> None:
    a = result(scores=[score(cell(batch=8, threads=2), 0.5)])
    b = result(scores=[score(cell(batch=32, threads=4), 0.5)], **LATER)
    assert len(compare([a], [b]).scores) == 1
    fp16 = result(scores=[score(cell(precision="fp16"), 0.5)], **LATER)
    with pytest.raises(UsageError, match="no row in common"):
        compare([a], [fp16])


# --- how it reads --------------------------------------------------------------------------


def changed():
    onnx = cell(runtime="onnx", batch=8)
    a = result(
        [once(cell(batch=8), 0.2), once(onnx), memory(onnx, 100), once(cell(batch=64))],
        [score(onnx, 0.60)],
    )
    unstable = dataclasses.replace(once(onnx, 0.2), stable=False)
    b = result(
        [once(cell(batch=8), 0.2), unstable, memory(onnx, 120), broken(cell(batch=64), "died")],
        [score(onnx, 0.50)],
        **LATER,
    )
    rules = [parse_rule(t) for t in ("throughput<0.95", "ram>1.5", "accuracy<-1pp")]
    return compare([a], [b], rules)


def test_the_tables() -> None:
    costs, accuracy = tables(changed())
    assert costs.title == "B over A · M::w · cpu · 2 threads · unpaired"
    torch, onnx, lost = (dict(zip(costs.names, row, strict=True)) for row in costs.texts)
    assert torch["Runtime"] == "torch fp32" and torch["Throughput"] == "1.00x [1.00, 1.00]"
    assert onnx["A items/s"] == "80.0" and onnx["B items/s"] == "40.0"
    assert onnx["Throughput"] == "0.50x [0.50, 0.50]" and onnx["RAM"] == "1.20x"
    assert onnx["vs PyTorch"] == "0.50x [0.50, 0.50]"
    assert onnx["Note"] == "B unstable; fails throughput<0.95"
    assert lost["Throughput"] == "-" and lost["Note"] == "B failed; fails throughput<0.95"
    assert "VRAM" not in costs.names and "p99" not in costs.names
    (row,) = accuracy.texts
    assert "-10.0 [-14.2, -5.8]" in row and "fails accuracy<-1pp" in row
    assert accuracy.title.endswith("unpaired")


def test_markdown_has_the_verdict_first() -> None:
    lines = markdown(changed()).splitlines()
    assert lines[0] == "### clipperf compare: 2 of 3 rules failed"
    assert "- **throughput&lt;0.95**: FAILED in 1 of 3 rows: " in "\n".join(lines)
    assert any(line.startswith("- ram&gt;1.5: ok in 1 row") for line in lines)
    header = next(i for i, line in enumerate(lines) if line.startswith("| Tower"))
    width = lines[header].count("|")
    assert lines[header + 1].count("|") == width
    assert {line.replace(r"\|", "").count("|") for line in lines[header : header + 5]} == {width}


def test_names_stay_text_in_markdown() -> None:
    odd = "<script>|`x`\n# M::w"
    both = [result([once(cell(model=odd))])], [result([once(cell(model=odd))], **LATER)]
    found = markdown(compare(*both))
    assert "<script>" not in found and "\n# M" not in found and "&lt;script&gt;" in found


def test_plain_values_hold_the_figures() -> None:
    found = json.loads(json.dumps(plain_json(plain(changed()))))
    assert found["failed"] is True
    assert [rule["failed"] for rule in found["rules"]] == [True, False, True]
    row = found["rows"][1]
    assert row["cell_b"]["runtime"] == "onnx" and row["stable_b"] is False
    assert row["figures"]["throughput"] == {
        "a": 80.0, "b": 40.0, "ratio": 0.5, "how": "unpaired", "low": 0.5, "high": 0.5,
    }  # fmt: skip
    assert row["figures"]["ram"]["ratio"] == pytest.approx(1.2)
    assert found["rows"][2]["problems_b"] == ["time pass failed: died"]
    (accuracy,) = found["accuracy"]
    assert accuracy["difference"] == pytest.approx(-0.1) and accuracy["basis"] == "unpaired"
    assert found["only_a"] == []
