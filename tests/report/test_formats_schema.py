"""The JSON of a report against its published schema."""

from __future__ import annotations

import copy
import json
from importlib import resources
from typing import Any

import pytest
import snapshot_data
from report_data import MIB, PUBLISHED, cell, memory, result, timed

from clipperf.report.build import build_report
from clipperf.report.format import render
from clipperf.report.formats.json import SCHEMA_VERSION

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

PATH = resources.files("clipperf") / "report" / "schemas" / f"report-{SCHEMA_VERSION}.json"
SCHEMA = json.loads(PATH.read_text(encoding="utf-8"))


def strict(schema: Any) -> Any:
    """The schema with every field that it does not name refused, but for those of records."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "record" not in schema["properties"]:
        found.setdefault("additionalProperties", False)
    return found


def problems(data: Any, schema: Any = SCHEMA) -> list[str]:
    checker = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(data)]


def report(name: str) -> Any:
    files, targets = snapshot_data.cases()[name]
    return json.loads(render(build_report(files, PUBLISHED, targets), "json"))


def test_the_schema_is_one_and_has_the_version_of_its_name() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert SCHEMA["$id"].endswith(f":{SCHEMA_VERSION}")


@pytest.mark.parametrize("name", snapshot_data.cases())
def test_reports_keep_to_the_schema_and_have_nothing_that_it_does_not_name(name: str) -> None:
    data = report(name)
    assert data["schema_version"] == SCHEMA_VERSION
    assert problems(data) == [] and problems(data, strict(SCHEMA)) == []


def test_every_kind_of_chart_is_in_it() -> None:
    batches = (1, 2, 4, 8)
    rows = [timed(cell(batch=b), [0.1 * b] * 30) for b in batches]
    rows += [memory(cell(batch=b), 100 + b, vram_peak_bytes=MIB * b) for b in batches]
    data = json.loads(render(build_report([result(rows)]), "json"))
    assert problems(data, strict(SCHEMA)) == []
    kinds = {chart["kind"] for section in data["sections"] for chart in section["charts"]}
    assert kinds == {"bars", "boxes", "lines"}
    titles = [chart["title"] for s in data["sections"] for chart in s["charts"]]
    assert any(title.startswith("Peak VRAM") for title in titles)


def test_what_is_wrong_is_refused() -> None:
    good = report("realistic")
    lines = next(s for s in good["sections"] if s["key"] == "latency")["charts"][0]["lines"]
    assert lines[0]["points"]

    def wrong(change: str) -> Any:
        data = copy.deepcopy(good)
        exec(change, {"d": data})
        return data

    for change in (
        "d['schema_version'] = 2",
        "del d['findings']",
        "d['records'][0]['side'] = 'audio'",
        "del d['records'][0]['runtime']",
        "d['records'][0]['batch'] = '8'",
        "d['environment'][0][1]['cores'] = None",
        "d['sections'][0]['reports'][0]['rows'][0][0] = 1",
        "[s for s in d['sections'] if s['charts']][0]['charts'][0]['kind'] = 'pie'",
        "[s for s in d['sections'] if s['charts']][0]['charts'][0].pop('description')",
        "d['provenance'][0]['notes'] = 'none'",
    ):
        assert problems(wrong(change)), change
