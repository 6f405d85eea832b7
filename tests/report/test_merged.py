"""Several result files as one: nothing of any is lost, changed or taken for another's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from report_data import ENVIRONMENT, OTHER, cell, memory, result, score, timed
from typer.testing import CliRunner

from clipperf import cli
from clipperf.errors import UsageError
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import ResultFile
from clipperf.report.build import build_report
from clipperf.report.format import render
from clipperf.report.merged import merged
from clipperf.report.records import merge
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.types import Targets
from clipperf.serialize import to_json
from clipperf.system.store import SCHEMA_VERSION, read_result

SPEC = ModelSpec("M::w", "open_clip", "M", "w", 224, 77, 512)


def here(**more: Any) -> ResultFile:
    rows = [timed(cell(), [0.2] * 6), timed(cell(runtime="onnx"), [0.1] * 6), memory(cell(), 100)]
    return result(rows, (score(cell()),), specs=(SPEC,), notes=("cold",), **more)


def there() -> ResultFile:
    rows = [
        timed(c, [seconds] * 6, env_id=OTHER.id)
        for c, seconds in ((cell(), 0.04), (cell(runtime="onnx"), 0.01))
    ]
    return result(
        rows,
        environments=(OTHER,),
        specs=(SPEC,),
        path="b.json",
        created_utc="2026-01-02T00:00:00Z",
        command="clipperf profile M::w --threads 2",
    )


def test_a_merged_file_field_by_field() -> None:
    for order in ([here(), there()], [there(), here()]):
        found = merged(order, "clipperf results merge a b")
        assert found.environments == (ENVIRONMENT, OTHER)
        assert [m.env_id for m in found.measurements] == ["env-a"] * 3 + ["env-b"] * 2
        assert [m.group for m in found.measurements] == ["1/g", "1/g", None, "2/g", "2/g"]
        assert found.scores == here().scores and found.specs == (SPEC,)
        assert (found.created_utc, found.kind) == ("2026-01-02T00:00:00Z", "profile")
        assert found.command == "clipperf results merge a b" and found.path == ""
        assert found.notes == (
            "2026-01-01T00:00:00Z: clipperf profile M::w",
            "cold",
            "2026-01-02T00:00:00Z: clipperf profile M::w --threads 2",
        )


def test_reports_of_both_ways_say_the_same() -> None:
    apart, one = [here(), there()], [merged([here(), there()], "m")]
    assert [(r.cell, r.env_id, r.p50_s, r.ratio) for r in merge(apart)] == [
        (r.cell, r.env_id, r.p50_s, r.ratio) for r in merge(one)
    ]
    # 2x here and 4x there, each of its own turns.
    assert [r.ratio for r in merge(one) if r.cell.runtime == "onnx"] == [2.0, 4.0]
    text = render(build_report(one), "text")
    assert "E1" in text and "E2" in text and "Xeon Test" in text and "GPU Test" in text


def test_each_machine_is_a_kind_of_its_own_in_a_sizing() -> None:
    sizing = size([merged([here(), there()], "m")], Targets(700, 0))
    # 700 / (10 x 0.7) = 100 replicas on 25 machines of four; 700 / (100 x 0.7) = 10 on 5 of two.
    assert [(p.env_id, p.rank, p.machines) for p in sizing.plans] == [
        ("env-a", 1, 25),
        ("env-b", 1, 5),
    ]


def test_of_one_cell_twice_the_newest_counts() -> None:
    again = result([timed(cell(), [0.5] * 6)], path="c.json", created_utc="2026-01-03T00:00:00Z")
    for order in ([here(), again], [again, here()]):
        (row,) = [r for r in merge([merged(order, "m")]) if r.cell == cell()]
        assert row.p50_s == 0.5


def test_a_file_twice_alone_or_from_elsewhere_is_refused() -> None:
    with pytest.raises(UsageError, match="name at least two"):
        merged([here()], "m")
    with pytest.raises(UsageError, match=r"z\.json holds the same as a\.json: name it once"):
        merged([here(), there(), here(path="z.json")], "m")
    with pytest.raises(UsageError, match="no results"):
        merged([result(), result(path="b.json", created_utc="x")], "m")
    changed = dataclasses.replace(SPEC, image_px=336)
    other = dataclasses.replace(there(), specs=(changed,))
    with pytest.raises(UsageError, match=r"b\.json describes the model M::w in another way"):
        merged([here(), other], "m")
    # When a machine was looked at is no difference of the machine.
    later = dataclasses.replace(ENVIRONMENT, created_utc="2026-01-05T00:00:00Z")
    same = result([timed(cell(batch=8), [0.1] * 6)], environments=(later,), path="d.json")
    assert merged([here(), same], "m").environments == (ENVIRONMENT,)


def test_an_evaluation_alone_stays_one() -> None:
    evals = [
        result(scores=[score(cell(), dataset=name)], kind="eval", path=name) for name in ("a", "b")
    ]
    assert merged(evals, "m").kind == "eval"
    assert merged([*evals, here()], "m").kind == "profile"


def test_the_command(tmp_path: Path) -> None:
    paths = []
    for name, each in (("a.json", here()), ("b.json", there())):
        paths.append(tmp_path / name)
        whole = dataclasses.replace(each, schema_version=SCHEMA_VERSION)
        paths[-1].write_text(json.dumps(to_json(whole)))
    out = tmp_path / "both.json"

    def run() -> Any:
        words = ["results", "merge", *map(str, paths), "--out", str(out)]
        return CliRunner().invoke(cli.app, words)

    done = run()
    assert done.exit_code == 0, done.output
    assert "6 rows of 2 files, machines: E1 (Xeon Test) and E2 (GPU Test)" in done.output
    assert len(read_result(out).measurements) == 5
    again = run()
    assert isinstance(again.exception, UsageError) and "exists" in str(again.exception)
