"""What a sweep prepares and keeps, and under which key; no process is started."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Install

from clipperf.bench import cost, prepare
from clipperf.bench.cost import Limits
from clipperf.bench.jobs import Event, Prepared
from clipperf.bench.launchers import local
from clipperf.bench.sweeps import groups as grouped
from clipperf.bench.sweeps import ledger, run, scored
from clipperf.bench.sweeps import there as shown
from clipperf.bench.sweeps.cells import Driven, Study, planned
from clipperf.bench.sweeps.groups import Groups
from clipperf.bench.sweeps.ledger import Ledger
from clipperf.bench.sweeps.plan_file import read_plan
from clipperf.bench.sweeps.scored import Datasets, made_of
from clipperf.bench.sweeps.tally import Tally
from clipperf.commands import sweep as command
from clipperf.errors import ChildError, ExportError, MeasurementError, UsageError
from clipperf.evals import evaluate
from clipperf.evals.worker import ModelRequest
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import zoo
from clipperf.nouns.cell import CLOSED_LOOP, Cell, EngineRequest
from clipperf.nouns.result import Environment, Measurement
from clipperf.nouns.variant import Variant
from clipperf.system import env, files, store

ENVIRONMENT = Environment("e", "cpu", 2, 2**33, None, None, None, "os", "3", {}, None, "now")


def study_of(folder: Path, text: str) -> Study:
    path = folder / "night.toml"
    path.write_text(f'models = ["clipperf-sample"]\n{text}')
    plan = read_plan(path)
    driven = tuple(Driven(CLOSED_LOOP, plan.batches) for _ in plan.scenarios)
    specs = (zoo.resolve("clipperf-sample"),)
    return planned(Study(plan, specs, driven, cost.QUICK, (1,)))


def tally_of(study) -> Tally:
    return Tally(study, {}, lambda told: None, lambda: False)


def groups_of(folder: Path, study, environments=(ENVIRONMENT,)) -> Groups:
    kept = Ledger(folder / "out")
    kept.begin("")
    machines = SimpleNamespace(environments=list(environments))
    return Groups(study, kept, machines, tally_of(study))


def killed() -> ExportError:
    """A process of an export that was killed, as the workshop says it."""
    found = ExportError("text: the export process died")
    found.__cause__ = ChildError("the export process died", code=-9)
    return found


# --- what cannot be prepared ---------------------------------------------------------------


def test_a_refusal_of_one_length_of_texts_is_not_anothers(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\ntokens = [8, 64]\nbatches = 1')
    asked = []

    def prepared(cell: Cell, spec, largest_batch, on_event) -> Prepared:
        asked.append((cell.tokens, cell.batch))
        if cell.tokens != 64:
            raise UsageError("takes 64 tokens and no other number")
        return Prepared(EngineRequest(cell, spec, "p", key="k"))

    monkeypatch.setattr(grouped, "prepared", prepared)
    held = groups_of(tmp_path, study)
    found = {unit.cells[0].tokens: held.prepared(unit.cells[0], unit).error for unit in study.units}
    assert found == {8: "takes 64 tokens and no other number", 64: None}


def test_an_export_that_failed_is_not_tried_again_and_one_that_was_killed_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = [1, 2]')
    answers = [ExportError("no such operator")]
    tries = []

    def prepared(cell: Cell, spec, largest_batch, on_event) -> Prepared:
        tries.append(cell.batch)
        raise answers[min(len(tries), len(answers)) - 1]

    monkeypatch.setattr(grouped, "prepared", prepared)
    held = groups_of(tmp_path, study)
    errors = [held.prepared(unit.cells[0], unit).error for unit in study.units]
    said = "no such operator; give the command again to have it tried again"
    assert errors == [said] * 2 and tries == [1]
    tries.clear()
    answers[:] = [killed(), ExportError("then this")]
    held = groups_of(tmp_path, study)
    found = held.prepared(study.units[0].cells[0], study.units[0])
    assert str(found.error).startswith("then this; ") and found.ended is None
    assert tries == [1, 1]


def test_a_group_of_which_an_export_was_killed_is_done_once_more(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own time, which is the end; then it stays as it is."""
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = [1, 2]')
    tries = []

    def prepared(cell: Cell, spec, largest_batch, on_event) -> Prepared:
        tries.append(cell.batch)
        raise killed()

    monkeypatch.setattr(grouped, "prepared", prepared)
    monkeypatch.setattr(local, "overhead_fact", lambda here: "cheap")
    held = groups_of(tmp_path, study)
    held.machines = local.Local(ENVIRONMENT)
    held.measure()
    assert tries == [1, 1, 1, 1], "twice for both, and again"
    assert held.tally.outcome.failed == 2 and not held.again
    (row,) = held.tally.outcome.results[study.units[1].id].measurements
    assert row.ended == "killed" and "the export process died; give the" in str(row.error)
    assert Path(held.tally.outcome.results[study.units[1].id].path).stem.endswith("-killed")


def test_what_other_machines_could_not_make_is_asked_of_them_once(
    home: Path, tmp_path: Path
) -> None:
    text = 'runtimes = "onnx"\ntowers = ["image", "text"]\nbatches = [1, 2]'
    study = study_of(tmp_path, text)
    asked = []

    class Far(local.Local):
        shared: Any = None
        known: Any = None

        def prepared(self, cells: Any, *more: object) -> list[Any]:
            asked.extend((cell.side, cell.batch) for cell in cells)
            said = {"text": ExportError("no such operator"), "image": UsageError("refused")}
            return [said[cell.side] for cell in cells]

        def call(self, *more: object) -> None: ...
        def calls(self, *more: object) -> None: ...

    held = groups_of(tmp_path, study)
    held.machines = Far(ENVIRONMENT)
    found = {}
    for unit in study.units:
        job = held.job(unit, last=False)
        assert job is not None
        found |= {(c.request.cell.side, c.request.cell.batch): c.error for c in job.cells}
    said = "no such operator; give the command again to have it tried again"
    assert found == {
        ("image", 1): "refused", ("image", 2): "refused", ("text", 1): said, ("text", 2): said,
    }  # fmt: skip
    assert sorted(asked) == [("image", 1), ("image", 2), ("text", 1)]


def test_an_export_that_was_killed_for_an_evaluation_is_made_good(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, 'runtimes = "onnx"\nscenarios = []\ndatasets = ["a", "b"]')
    one, other = study.units
    cell = one.cells[0]
    outcomes = [killed(), "made", ExportError("no such operator")]

    def model_request(cell: Cell, spec, on_stage) -> object:
        found = outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(prepare, "model_request", model_request)
    held = Datasets(study, Ledger(tmp_path / "out"), local.Local(ENVIRONMENT), tally_of(study))
    assert held.prepared(cell, one, last=False) == "made", "once more, at once"
    for unit in (one, other):
        with pytest.raises(ExportError, match="no such operator"):
            held.prepared(cell, unit, last=False)
    assert not outcomes, "it was tried once for both datasets"
    outcomes += [killed(), killed()]
    held.errors.clear()
    with pytest.raises(ExportError):
        held.prepared(cell, one, last=False)
    outcomes += ["made"]
    assert held.prepared(cell, one, last=True) == "made"
    # What was killed in the making is the unit's own end, so that it comes once more.
    scores = scored.worst([scored.ended_of(killed()), None])
    assert scores == "killed"


# --- keys ----------------------------------------------------------------------------------


def test_scores_are_of_a_folders_preprocessing_and_tokenizer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = zoo.resolve("clipperf-sample")
    cell = Cell(spec.id, "image", "onnx", "fp32", "cpu", 32, 1)
    request = ModelRequest(tmp_path, (EngineRequest(cell, spec, "p", key="k"),))
    cut = [None]
    monkeypatch.setattr(store, "read_manifest", lambda folder: SimpleNamespace(cut_at=cut[0]))
    pixels = PreprocessSpec()

    def key() -> str:
        (tmp_path / "preprocess.json").write_text(json.dumps(pixels.to_json()))
        return files.digest_of(made_of(request, "w"))

    (tmp_path / "tokenizer.json").write_text("{}")
    first = key()
    assert key() == first
    pixels = dataclasses.replace(pixels, method="draft")
    second = key()
    (tmp_path / "tokenizer.json").write_text('{"other": 1}')
    third = key()
    cut[0] = 16
    assert len({first, second, third, key()}) == 4


def test_a_machine_is_also_the_packages_that_bring_records(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = env.capture()
    assert {"timm", "tokenizers"} <= before.versions.keys()
    assert env.version_of("transformers") == before.versions.get("transformers")
    install("sweep_more", "ONE = 1", {"clipperf.runtime": {"more": "sweep_more:ONE"}})
    after = env.capture()
    (name,) = after.versions.keys() - before.versions.keys()
    assert "sweep" in name and after.id != before.id


def test_an_evaluation_is_given_the_plans_timeout(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hung:
        def __init__(self, module: str, **options: object) -> None:
            raise ChildError(f"{module} {options['timeout_s']}")

    monkeypatch.setattr(evaluate, "Child", Hung)
    with pytest.raises(ChildError, match=r"clipperf\.evals\.worker 7\.0"):
        cell = Cell("M", "image", "onnx", "fp32", "cpu", 32, 1)
        request = ModelRequest(
            tmp_path, (EngineRequest(cell, zoo.resolve("clipperf-sample"), "p"),)
        )
        evaluate.embed_apart(request, tmp_path / "data.json", 32, timeout_s=7.0)
    study = study_of(tmp_path, 'scenarios = []\ndatasets = ["a"]')
    study = dataclasses.replace(study, settings=dataclasses.replace(study.settings, timeout_s=7.0))
    told = {}

    def noting(*args: object, **options: object):
        told.update(options)
        raise ExportError("enough")

    monkeypatch.setattr(evaluate, "evaluate", noting)
    held = Datasets(study, Ledger(tmp_path / "out"), local.Local(ENVIRONMENT), tally_of(study))
    held.scored(study.units[0], SimpleNamespace(name="a"), lambda *args: None)
    assert told["timeout_s"] == 7.0


def test_what_is_not_of_the_plan_is_set_aside_and_comes_back(home: Path, tmp_path: Path) -> None:
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = [1, 2]')
    kept, limits = Ledger(tmp_path / "out"), Limits()
    kept.begin("")
    names = ["a" * 16, "b" * 16]
    for unit, key in zip(study.units, names, strict=True):
        row = Measurement(unit.cells[0], "time", "ok", "e")
        result = ledger.new_result("profile", "", (ENVIRONMENT,), (unit.spec,), (row,))
        kept.write(unit, key, None, limits, result)
    one, other = (kept.find(u, key, limits) for u, key in zip(study.units, names, strict=True))
    assert one is not None and other is not None
    kept.keep_only([other])
    assert [path.name for path in (tmp_path / "out" / "cells").iterdir()] == [Path(other.path).name]
    assert kept.find(study.units[0], names[0], limits) == one
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2


def test_the_ends_of_cells_add_up(home: Path, tmp_path: Path) -> None:
    """Two groups of two cells: one that failed in part, one that was there and had failed."""
    text = 'runtimes = "onnx"\nprecisions = ["fp32", "int8"]\ntowers = "text"\nbatches = [1, 2, 4]'
    study = study_of(tmp_path, text)
    assert [len(unit.cells) for unit in study.units] == [1] * 6
    one, two, *_ = [
        dataclasses.replace(unit, cells=(*unit.cells, *other.cells))
        for unit, other in zip(study.units[::2], study.units[1::2], strict=True)
    ]
    tally = tally_of(study)

    def result(unit, rows=(), notes=()):
        return ledger.new_result("profile", "", (ENVIRONMENT,), (unit.spec,), rows, notes)

    good, bad = (Measurement(one.cells[n], "time", s, "e") for n, s in enumerate(("ok", "failed")))
    tally.count(one, result(one, (good, bad)))
    found = tally.outcome
    assert (found.measured, found.failed, found.valid, found.left) == (1, 1, 0, 4)
    note = f"failed: {two.cells[0].label}: why"
    tally.count(two, result(two, notes=(note,)), valid=True)
    assert (found.measured, found.failed, found.valid, found.left) == (1, 2, 1, 2)
    rest = dataclasses.replace(one, cells=study.units[4].cells + study.units[5].cells)
    tally.count(rest, result(rest), bad=[evaluate.Failure(rest.spec.id, "no data")])
    assert (found.measured, found.failed, found.valid, found.left) == (1, 4, 1, 0)
    assert found.total == 6


def test_what_is_there_shows_without_making_anything(
    home: Path, tmp_path: Path, sample_artifact: Path
) -> None:
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = [1, 2]')
    kept, limits, spec = Ledger(tmp_path / "out"), Limits(), study.specs[0]
    (exported,) = [t for t in store.read_manifest(sample_artifact).towers if t.side == "text"]
    assert shown.tower_key(spec, "text", Variant("onnx")) == exported.key
    assert shown.done(study, kept, ENVIRONMENT) == set()
    kept.begin("")
    unit, other = study.units
    key = ledger.key_of(unit, [exported.key], study.settings, ENVIRONMENT)
    row = Measurement(unit.cells[0], "time", "ok", "e")
    result = ledger.new_result("profile", "", (ENVIRONMENT,), (unit.spec,), (row,))
    written = Path(kept.write(unit, key, None, limits, result).path)
    kept.write(other, "0" * 16, None, limits, result)  # of other settings
    assert shown.done(study, kept, ENVIRONMENT) == {unit.id}
    elsewhere = dataclasses.replace(ENVIRONMENT, id="other")
    assert shown.done(study, kept, elsewhere) == set()
    kept.keep_only([])
    assert not written.exists() and shown.done(study, kept, ENVIRONMENT) == {unit.id}, "set aside"
    assert not written.exists(), "and nothing was moved"
    (tmp_path / "out" / "earlier" / written.name).write_text("{")
    assert shown.done(study, kept, ENVIRONMENT) == set()


def test_what_cannot_be_is_the_plans_of_now(home: Path, tmp_path: Path) -> None:
    study = study_of(tmp_path, 'runtimes = ["onnx", "ort-trt"]\ntowers = "text"')
    kept = Ledger(tmp_path / "out")
    kept.begin("")
    path = tmp_path / "out" / "cells" / "unsupported.json"
    run._begin(study, kept, ENVIRONMENT, tally := tally_of(study))
    assert len(store.read_result(path).measurements) == 1
    kept.keep_only(tally.outcome.files)
    assert path.exists()
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"')
    run._begin(study, kept, ENVIRONMENT, tally_of(study))
    assert not path.exists()


# --- several machines ----------------------------------------------------------------------


def test_what_another_machine_has_measured_is_there(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = 1')
    (unit,) = study.units
    (cell,) = unit.cells

    def prepared(cell: Cell, spec, largest_batch, on_event) -> Prepared:
        return Prepared(EngineRequest(cell, spec, "p", key="k"))

    monkeypatch.setattr(grouped, "prepared", prepared)
    machines = [dataclasses.replace(ENVIRONMENT, id=name) for name in ("one", "two")]
    first = groups_of(tmp_path, study, machines)
    assert first.job(unit, last=False) is not None
    memory = Measurement(cell, "memory", "ok", "two")
    first.keep(Event("measured", "", memory, unit.id))
    again = groups_of(tmp_path, study, machines)
    job = again.job(unit, last=False)
    assert job is not None and job.known == (memory,), "the second machine's memory row is there"
    again.keep(Event("measured", "", Measurement(cell, "time", "ok", "two"), unit.id))
    again.keep(Event("finished", unit.id, group=unit.id))
    for known, there in ((machines, True), (machines[1:], True), (machines[:1], False)):
        held = groups_of(tmp_path, study, known)
        assert (held.job(unit, last=False) is None) == there, "it is valid where it was measured"


def test_a_kill_of_what_looks_at_the_harness_ends_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Measurement] = []

    def time_pass(requests, *args: object) -> list[Measurement]:
        return [dataclasses.replace(found.pop(0), cell=requests[0].cell)]

    monkeypatch.setattr(local, "time_pass", time_pass)
    cell = Cell("empty", "image", "simulated", "fp32", "cpu", 1, 1)
    bad = Measurement(cell, "time", "failed", "e", error="it died")
    killed_row = dataclasses.replace(bad, ended="killed")
    good = Measurement(cell, "time", "ok", "e", run_s=(0.002,))
    found[:] = [killed_row, good]
    assert "2.00 ms a call" in local.overhead_fact(ENVIRONMENT)
    found[:] = [killed_row, killed_row]
    assert "is not known" in local.overhead_fact(ENVIRONMENT) and not found
    found[:] = [bad]
    with pytest.raises(MeasurementError, match="does not work here: it died"):
        local.overhead_fact(ENVIRONMENT)


# --- the command ---------------------------------------------------------------------------


def test_the_command_takes_a_plan_as_it_is(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(
        'models = ["a"]\nscenarios = ["server"]\n[server]\nslo_ms = 40\nmax_batches = [4, 8]'
    )
    plan = read_plan(path)
    assert plan.text == path.read_text()
    for name, seen in (("./a", "a"), ("../a", "../a")):
        assert command._beside(name, plan) == f"{tmp_path / seen}"
    assert command._beside(".a", plan) == ".a" and command._beside("a/b", plan) == "a/b"
    pytest.importorskip("mlperf_loadgen")
    driven = command._driven(plan, "server")
    assert driven.scenario == "server" and driven.batches == (4, 8)
    assert driven.serving is not None
    assert (driven.serving.slo_s, driven.serving.max_delay_s) == (0.04, 0.002)
    assert command._driven(plan, "single-stream").batches == (1,)
    assert command._driven(plan, "offline").batches == (8,)
    plan = dataclasses.replace(plan, files="none")
    with pytest.raises(UsageError, match=r"\[from-files\]: there is no folder"):
        command._driven(plan, "from-files")
