"""Result files of every version of the format, as the clipperf of that version wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli

from clipperf.errors import ArtifactError
from clipperf.report.build import build_report
from clipperf.report.format import render
from clipperf.system import store
from clipperf.system.upgraded import upgraded

FILES = {n: Path(__file__).with_name(f"result-{n}.json") for n in (1, 2)}


def test_there_is_a_file_of_each_version() -> None:
    assert sorted(FILES) == list(range(1, store.SCHEMA_VERSION + 1))
    for version, path in FILES.items():
        assert json.loads(path.read_text())["schema_version"] == version


@pytest.mark.parametrize("version", FILES)
def test_a_file_of_each_version_is_read_and_reported(version: int) -> None:
    found = store.read_result(FILES[version])
    assert found.schema_version == store.SCHEMA_VERSION
    assert [(e.id, e.cpu) for e in found.environments] == [("3f2a", "AMD EPYC Test")]
    times = {m.cell.runtime: m.run_s for m in found.measurements if m.kind == "time" and m.run_s}
    assert times["onnx"][:2] == (0.01, 0.0101) and len(times["torch"]) == 8
    # What came later has its default.
    first = found.measurements[0]
    assert (first.cell.streams, first.cell.input, first.cell.scenario) == (
        1,
        "float32",
        "closed-loop",
    )
    assert (first.serving, first.file_runs, found.crossed, found.scores[0].aim) == (
        None,
        (),
        (),
        "high",
    )
    data = json.loads(render(build_report([found]), "json"))
    costs = {r["runtime"]: r for r in data["records"] if r["record"] == "cost"}
    # The middle of eight calls is 1.035 times the first: 8 / 0.01035.
    assert costs["onnx"]["items_per_s"] == pytest.approx(8 / 0.01035)
    assert costs["onnx"]["ratio"] == pytest.approx(2.0)
    assert costs["onnx"]["rss_peak_bytes"] == 80 * 2**20
    assert costs["openvino"]["problems"] == "time pass failed: out of memory"
    assert [r["value"] for r in data["records"] if r["record"] == "score"] == [0.625]


def test_all_versions_come_to_the_same() -> None:
    first, *others = (vars(store.read_result(path)) for path in FILES.values())
    for other in others:
        assert {**other, "path": first["path"]} == first


def test_versions_stand_in_one_report(cli: Cli) -> None:
    done = cli("report", *FILES.values(), "--format", "json", check=True)
    data = json.loads(done.stdout)
    assert [Path(p["path"]).name for p in data["provenance"]] == ["result-1.json", "result-2.json"]
    assert done.stderr == ""


def test_what_is_no_result_of_an_older_version_stays_as_it_is(tmp_path: Path) -> None:
    for data in (None, [], {"schema_version": 1, "kind": "profile"}, {"schema_version": 3}):
        assert upgraded(data) == data
    path = tmp_path / "new.json"
    path.write_text(FILES[2].read_text().replace('"schema_version": 2', '"schema_version": 3'))
    with pytest.raises(
        ArtifactError, match="schema version 3, this clipperf reads results of 1 and 2"
    ):
        store.read_result(path)
    assert store.is_of_another_version(path) and not store.is_of_another_version(FILES[1])
