"""Scenarios and launchers: clipperf's own by their files, others from installed packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli, Install

from clipperf.bench.cost import QUICK
from clipperf.bench.jobs import LAUNCHERS, SCENARIOS, Event, Job, Prepared, blank, run_job
from clipperf.bench.profile import Sweep, profile, recorded
from clipperf.engines import contract
from clipperf.errors import UsageError
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec, TextIds
from clipperf.nouns.result import Environment, Measurement, ResultFile
from clipperf.serialize import from_json, to_json
from clipperf.system import env as environment
from clipperf.system import store

SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)

TOYS = """
import contextlib, json, time
from dataclasses import replace
import numpy as np
from clipperf.bench.jobs import Event, Job, Launcher, Scenario, blank, run_job
from clipperf.bench.passes import worker_of
from clipperf.engines.contract import Availability, Runtime
from clipperf.serialize import from_json, to_json
from clipperf.system import env

class Engine:
    def __init__(self, request):
        self.dim = request.spec.embed_dim
    def run(self, array):
        time.sleep(0.02)
        return np.ones((len(array), self.dim), np.float32)
    def close(self):
        pass

RUNTIME = Runtime("toy", None, ("fp32",), ("cpu",), lambda d: Availability(True, "toy 1"), Engine)
AWAY = replace(
    RUNTIME, name="away", availability=lambda d: Availability(False, "no board", fix="buy one")
)

def measure(job, env, earlier, on_event):
    for cell in job.cells:
        request = cell.request
        on_event(Event("started", f"{request.cell.label}: cold"))
        with worker_of(request, job.settings) as worker:
            opened = worker.ask("open", request=request, text_ids=job.text_ids)
            first_run_s = worker.ask("first")["first_run_s"]
        row = blank(request, "time", env)
        row = replace(row, group=job.group, load_s=opened["load_s"], run_s=(first_run_s,))
        on_event(Event("measured", f"{request.cell.label}: cold", row))

COLD = Scenario("cold", measure, lambda groups: sum(len(group.cells) for group in groups))

class Fleet:
    '''Two machines that have clipperf; jobs cross to them as JSON. The second is found late.'''

    def __init__(self):
        self.environments = [replace(env.capture(), id="machine-1")]

    def run(self, jobs, on_event):
        second = replace(self.environments[0], id="machine-2", cpu="another")
        for number, job in enumerate(jobs):
            if number == 1:
                self.environments.append(second)
                on_event(Event("note", "a second machine has come"))
            crossed = from_json(Job, json.loads(json.dumps(to_json(job))))
            run_job(crossed, self.environments[number % 2], (), on_event)

FLEET = Launcher("fleet", lambda: contextlib.nullcontext(Fleet()), here=False)
"""


def test_own_scenarios_and_launchers_bear_the_names_of_their_files() -> None:
    assert "closed-loop" in SCENARIOS.own() and "local" in LAUNCHERS.own()
    for registry in (SCENARIOS, LAUNCHERS):
        for name in registry.own():
            assert registry.get(name).name == name


def test_a_scenario_and_a_launcher_from_an_installed_package_work(
    install: Install, cli: Cli, tmp_path: Path
) -> None:
    points = {
        "clipperf.runtime": {"toy": "toys:RUNTIME"},
        "clipperf.scenario": {"cold": "toys:COLD"},
        "clipperf.launcher": {"fleet": "toys:FLEET"},
    }
    install("toys", TOYS, points)
    out = tmp_path / "profile.json"
    done = cli(
        *("profile", "clipperf-sample", "--runtime", "toy", "--batch", "1,2", "--quick"),
        *("--scenario", "cold", "--launcher", "fleet", "--json", out),
        check=True,
    )
    assert "toy fp32" in done.stdout and "second machine" in done.stderr
    result = store.read_result(out)
    assert [row.cell.batch for row in result.measurements] == [1, 2, 1, 2]
    assert all(row.status == "ok" and len(row.run_s) == 1 for row in result.measurements)
    assert [row.env_id for row in result.measurements] == ["machine-1", "machine-2"] * 2
    assert [found.id for found in result.environments] == ["machine-1", "machine-2"]
    assert "a second machine has come" in result.notes
    text = cli("report", out, check=True).stdout
    assert "cold" in text
    # A scenario runs on any launcher, a launcher runs any scenario.
    for scenario, launcher in (("closed-loop", "fleet"), ("cold", "local")):
        done = cli(
            *("profile", "clipperf-sample", "--runtime", "toy", "--tower", "image", "--quick"),
            *("--batch", "1", "--scenario", scenario, "--launcher", launcher, "--json", out),
            check=True,
        )
        rows = store.read_result(out).measurements
        kinds = ["memory", "time"] if scenario == "closed-loop" else ["time"]
        assert [row.kind for row in rows] == kinds


def test_runtimes_are_looked_for_where_the_launcher_measures(
    install: Install, cli: Cli, tmp_path: Path
) -> None:
    points = {
        "clipperf.runtime": {"away": "toys:AWAY"},
        "clipperf.scenario": {"cold": "toys:COLD"},
        "clipperf.launcher": {"fleet": "toys:FLEET"},
    }
    install("toys", TOYS, points)
    out = tmp_path / "profile.json"
    asked = (
        *("profile", "clipperf-sample", "--runtime", "away", "--tower", "image", "--batch", "1"),
        *("--quick", "--scenario", "cold", "--json", out),
    )
    cli(*asked, "--launcher", "fleet", check=True)
    assert [row.status for row in store.read_result(out).measurements] == ["ok"]
    out.unlink()
    refused = cli(*asked)
    assert refused.returncode != 0 and "no board" in refused.stderr and not out.exists()
    refused = cli(*asked, "--launcher", "fleet", "--precision", "fp61")
    assert refused.returncode == 2 and "no precision 'fp61'" in refused.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--scenario", "no scenario 'open-loop'; choose from: closed-loop"),
        ("--launcher", "no launcher 'open-loop'; choose from: local"),
    ],
)
def test_names_that_are_not_there_are_refused(option: str, said: str, cli: Cli) -> None:
    done = cli("profile", "clipperf-sample", option, "open-loop")
    assert done.returncode == 2 and said in " ".join(done.stderr.split())
    assert not store.find_results()


def test_nothing_is_measured_under_an_unknown_name(home: Path) -> None:
    spec = zoo.resolve("clipperf-sample")
    sweep = Sweep((spec,), ("onnx",), ("image",), (1,), scenario="no-such")
    with pytest.raises(UsageError, match="no scenario 'no-such'"):
        profile(sweep, QUICK)
    with pytest.raises(UsageError, match="no launcher 'no-such'"):
        profile(Sweep((spec,), ("onnx",), ("image",), (1,)), QUICK, launcher="no-such")
    assert not store.find_results()


# --- jobs ----------------------------------------------------------------------------------


def request(runtime: str, batch: int = 1) -> EngineRequest:
    return EngineRequest(Cell("sim", "image", runtime, "fp32", "cpu", batch, 1), SPEC, None)


def test_jobs_cross_to_other_machines() -> None:
    cells = (Prepared(request("torch"), 7), Prepared(request("onnx"), error="no such weights"))
    job = Job("group", "closed-loop", cells, QUICK, TextIds(None, 1, 2, 9))
    assert from_json(Job, json.loads(json.dumps(to_json(job)))) == job


def test_what_could_not_be_prepared_is_a_row_of_any_scenario(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = environment.capture()
    job = Job("group", "closed-loop", (Prepared(request("onnx"), error="no weights"),), QUICK)
    events: list[Event] = []
    (row,) = run_job(job, env, (), events.append)
    assert (row.status, row.error, row.group) == ("failed", "no weights", "group")
    assert (row.kind, row.env_id, row.random_weights) == ("time", env.id, True)
    assert [(event.kind, event.measurement) for event in events] == [
        ("measured", row),
        ("finished", None),
    ]


def result_of(env: Environment) -> ResultFile:
    return ResultFile(store.SCHEMA_VERSION, "profile", "", "", (env,))


def test_drawing_random_weights_is_no_load_time_of_any_runtime_that_does_it() -> None:
    env = environment.capture()

    def load_s(runtime: str, spec: ModelSpec) -> float | None:
        asked = EngineRequest(Cell(spec.id, "image", runtime, "fp32", "cpu", 1, 1), spec, None)
        row = blank(asked, "time", env)
        row = Measurement(**{**vars(row), "load_s": 2.0})
        found = recorded(result_of(env), Event("measured", "", row), (env,))
        return found.measurements[0].load_s

    builders = [name for name in contract.names() if contract.get(name).artifact is None]
    assert {"torch", "torch-compile"} <= set(builders)
    trained = ModelSpec("m", "open_clip", "ViT-B-32", "openai", 8, 8, 16)
    for name in contract.names():
        assert load_s(name, SPEC) == (None if name in builders else 2.0), name
        assert load_s(name, trained) == 2.0, name
