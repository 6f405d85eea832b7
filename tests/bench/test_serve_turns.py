"""Scenarios of serving: what is tried, and whole runs of real engines."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, store_of

from clipperf.bench import serve_turns
from clipperf.bench.cost import QUICK
from clipperf.bench.jobs import SCENARIOS, Event, Job, Prepared, run_job
from clipperf.commands import serving_options
from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Measurement
from clipperf.nouns.serving import OFFLINE, SERVER, SERVING, SINGLE_STREAM, Serving, Trial
from clipperf.system import env as environment

SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)
SHORT = Serving(slo_s=0.5, min_s=1.0, min_queries=100, percentile=0.9, rel_width=0.5)


def trial(per_s: float, valid: bool) -> Trial:
    return Trial(100, per_s, {"50": 0.01}, valid, offered_per_s=per_s)


def test_every_scenario_is_found_by_its_name() -> None:
    assert {SCENARIOS.get(name).name for name in SERVING} == {"single-stream", "offline", "server"}


def test_a_test_that_ended_too_soon_is_given_more() -> None:
    tests = serve_turns.until_long_enough(100.0, SHORT)
    assert next(tests) == 100.0
    assert tests.send(trial(150.0, False)) == pytest.approx(195.0)
    assert tests.send(trial(150.0, False)) == pytest.approx(195.0 * 1.3)
    with pytest.raises(StopIteration):
        tests.send(trial(150.0, False))
    tests = serve_turns.until_long_enough(100.0, SHORT)
    next(tests)
    with pytest.raises(StopIteration):
        tests.send(trial(90.0, True))


def test_the_valid_one_with_the_highest_rate_counts() -> None:
    assert serve_turns.best_of([trial(50, True), trial(90, False), trial(70, True)]) == 2
    assert serve_turns.best_of([trial(50, False)]) is None


def simulated(tmp_path: Path, name: str, batch: int, **script: Any) -> EngineRequest:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(script))
    return EngineRequest(Cell("sim", "image", "simulated", name, "cpu", batch, 1), SPEC, str(path))


def served(scenario: str, *requests: EngineRequest) -> list[Measurement]:
    events: list[Event] = []
    job = Job("g", scenario, tuple(map(Prepared, requests)), QUICK, serving=SHORT)
    rows = run_job(job, environment.capture(), [], events.append)
    assert [e.measurement for e in events if e.kind == "measured"] == rows
    return rows


def test_a_server_of_known_cost_and_one_that_dies_in_turns(tmp_path: Path) -> None:
    dies, well = served(
        SERVER,
        simulated(tmp_path, "well", 4, run_s=0.02),
        simulated(tmp_path, "dies", 4, run_s=0.001, fail_at="run:300", how="exit"),
    )  # a row is there as soon as its cell is done
    assert well.status == "ok" and well.kind == "serving" and well.group == "g"
    run = well.serving
    assert run is not None and run.serving == SHORT and run.counts is not None
    # 20 ms a run of up to 4: at most 200 a second.
    assert run.counts.per_s <= 200 and run.counts.valid
    above = [each for each in run.trials if each.rate_per_s > run.counts.rate_per_s]
    assert above and not any(each.valid for each in above), "it looked above, too"
    assert max(size for size, _ in run.counts.batches) <= 4
    assert dies.status == "failed" and dies.serving is not None
    assert "'offer'" in (dies.error or ""), dies.error


def test_a_run_that_fails_ends_its_test_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    asked = dataclasses.replace(SHORT, min_s=300.0)
    job = Job(
        "g", SERVER, (Prepared(simulated(tmp_path, "fails", 4, run_s=0.02, fail_at="run:100")),),
        QUICK, serving=asked,
    )  # fmt: skip
    (row,) = run_job(job, environment.capture(), [], lambda event: None)
    assert row.status == "failed" and "while inputs were offered: simulated: told" in str(row.error)
    assert time.monotonic() - start < 100, "LoadGen would have offered for five minutes"


def test_where_even_the_quickest_is_late_the_search_ends() -> None:
    tests = serve_turns.up_to_the_bound(100.0, SHORT)
    assert next(tests) == 70.0
    with pytest.raises(StopIteration):
        tests.send(dataclasses.replace(trial(70, False), least_s=0.6))
    tests = serve_turns.up_to_the_bound(100.0, SHORT)
    next(tests)
    assert tests.send(trial(70, False)) == 70.0, "once more, as it may have been the machine"
    assert tests.send(trial(70, True)) == 105.0


def test_a_rate_that_is_asked_for_is_the_only_one() -> None:
    for valid in (True, False):
        tests = serve_turns.up_to_the_bound(100.0, dataclasses.replace(SHORT, rate_per_s=42.0))
        assert next(tests) == 42.0
        with pytest.raises(StopIteration):
            tests.send(trial(42, valid))


def test_a_rate_is_offered_for_half_a_minute() -> None:
    def serving(quick: bool, rate: float | None) -> Serving:
        found = serving_options.offered(SERVER, None, 50, None, None, quick, False, rate)[2]
        assert found is not None
        return found

    assert (serving(False, 42.0).rate_per_s, serving(False, 42.0).min_s) == (42.0, 30.0)
    assert (serving(True, 42.0).min_s, serving(False, None).rate_per_s) == (3.0, None)
    for rate, words in ((0.0, "above 0"), (float("inf"), "below a million")):
        with pytest.raises(UsageError, match=words):
            serving(False, rate)
    with pytest.raises(UsageError, match="--rate is for inputs that come at random"):
        serving_options.offered(OFFLINE, None, None, None, None, False, False, 42.0)


@pytest.mark.parametrize("scenario", [SINGLE_STREAM, OFFLINE])
def test_other_scenarios_of_known_cost(tmp_path: Path, scenario: str) -> None:
    batch = 1 if scenario == SINGLE_STREAM else 4
    (row,) = served(scenario, simulated(tmp_path, "well", batch, run_s=0.005))
    assert row.status == "ok" and row.serving is not None
    counts = row.serving.counts
    assert counts is not None and 0 < counts.per_s <= batch / 0.005


def test_nobody_said_how() -> None:
    job = Job("g", SERVER, (), QUICK)
    with pytest.raises(UsageError, match="--scenario server"):
        SCENARIOS.get(SERVER).measure(job, environment.capture(), [], lambda event: None)


def test_the_command_on_the_sample(
    cli: Cli, home: Path, sample_artifact: Path, tmp_path: Path
) -> None:
    store_of(sample_artifact, home)
    out = tmp_path / "served.json"
    done = cli(
        "profile", "clipperf-sample", "--runtime", "onnx", "--tower", "text", "--scenario",
        "offline", "--batch", "4", "--quick", "--json", str(out),
    )  # fmt: skip
    said = " ".join((done.stdout + done.stderr).split())  # lines are as wide as a terminal
    assert done.returncode == 0, said
    assert "Serving" in said and " VALID" in said
    (row,) = json.loads(out.read_text())["measurements"]
    best = row["serving"]["trials"][row["serving"]["best"]]
    assert best["valid"] and dict(best["batches"])[4] > 0
    assert row["cell"]["scenario"] == "offline" and row["cell"]["batch"] == 4
    told = cli("report", str(out), "--format", "json", check=True)
    (record,) = json.loads(told.stdout)["records"]
    assert record["record"] == "serving" and record["inputs_per_s"] == best["per_s"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scenario", "server"], "--slo-ms 50"),
        (["--scenario", "burst"], "choose from: closed-loop"),
        (["--slo-ms", "50"], "add --scenario server"),
        (["--scenario", "offline", "--max-batch", "4"], "add --scenario server"),
        (["--scenario", "server", "--slo-ms", "50", "--batch", "4"], "give --max-batch 4"),
        (["--scenario", "server", "--slo-ms", "-1"], "milliseconds above 0"),
        (["--scenario", "server", "--slo-ms", "9", "--max-delay-ms", "9"], "below --slo-ms"),
        (["--scenario", "single-stream", "--batch", "8"], "leave out --batch"),
        (["--scenario", "server", "--slo-ms", "9", "--from-files", "."], "leave out --scenario"),
    ],
)
def test_bad_wishes_name_the_fix(cli: Cli, options: list[str], words: str) -> None:
    done = cli("profile", "clipperf-sample", *options)
    assert done.returncode == 2 and words in done.stderr, done.stderr
