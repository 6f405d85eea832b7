"""`clipperf sweep` in real processes, interrupted in every way: nothing valid is done again.

Engines of a package of ours note when they are opened, so that what was done twice shows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, Cli, Install

from clipperf.report.records import merge
from clipperf.system import store
from clipperf.system.temporaries import PREFIX

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

TOYS = """
import contextlib, json, os, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from clipperf.bench.jobs import Event, Job, Launcher, Scenario, row_a_cell, run_job
from clipperf.bench.passes import failure, worker_of
from clipperf.engines.contract import Availability, Runtime
from clipperf.errors import ClipperfError
from clipperf.serialize import from_json, to_json
from clipperf.system import env

HERE = Path(os.environ["TOYS"])

class Engine:
    def __init__(self, request):
        cell = request.cell
        self.name = f"{cell.runtime}-{cell.batch}"
        self.dim = request.spec.embed_dim
        with open(HERE / "opened", "a") as log:
            log.write(f"{self.name} {os.getpid()}\\n")
        self.held = None
    def run(self, array):
        asked = HERE / self.name
        while asked.is_file() and asked.read_text() == "wait":
            time.sleep(0.02)
        if asked.is_file() and asked.read_text() == "eat":
            self.held = bytearray(400 * 2**20)
        if asked.is_file() and asked.read_text() == "fail":
            raise ValueError("no luck")
        time.sleep(0.004)
        return np.ones((len(array), self.dim), np.float32)
    def close(self):
        pass

def runtime(name):
    return Runtime(name, None, ("fp32",), ("cpu",), lambda d: Availability(True, "toy 1"), Engine)

ONE, TWO = runtime("one"), runtime("two")

def measure(job, env, earlier, on_event):
    for cell in job.cells:
        row = job.row(cell, "time", env)
        on_event(Event("started", f"{row.cell.label}: cold"))
        try:
            with worker_of(cell.request, job.settings, 0.05) as worker:
                opened = worker.ask("open", request=cell.request, text_ids=job.text_ids)
                first_run_s = worker.ask("first")["first_run_s"]
                row = replace(row, load_s=opened["load_s"], run_s=(first_run_s,), blocks=(0,))
        except ClipperfError as exc:
            row = replace(row, **failure(exc))
        on_event(Event("measured", f"{row.cell.label}: cold", row))

COLD = Scenario("cold", measure, row_a_cell)

class Fleet:  # two machines that have clipperf; jobs cross to them as JSON
    def __init__(self):
        here = env.capture()
        self.environments = [replace(here, id="machine-1"), replace(here, id="machine-2")]
    def run(self, jobs, on_event):
        for number, job in enumerate(jobs):
            crossed = from_json(Job, json.loads(json.dumps(to_json(job))))
            run_job(crossed, self.environments[number % 2], (), on_event)

FLEET = Launcher("fleet", lambda: contextlib.nullcontext(Fleet()), here=False)
"""

POINTS = {
    "clipperf.runtime": {"one": "sweep_toys:ONE", "two": "sweep_toys:TWO"},
    "clipperf.scenario": {"cold": "sweep_toys:COLD"},
    "clipperf.launcher": {"fleet": "sweep_toys:FLEET"},
}

PLAN = """
models = ["clipperf-sample"]
towers = ["image"]
runtimes = ["one", "two"]
batches = [1, 2, 3]
threads = [1]
scenarios = ["cold"]
quick = true
"""

ALL = [f"{name}-{batch}" for batch in (1, 2, 3) for name in ("one", "two")]


class Place:
    """A plan, the folder of its results, and what engines have noted."""

    def __init__(self, root: Path, cli: Cli) -> None:
        self.root, self.cli = root, cli
        self.plan, self.out = root / "plan.toml", root / "plan.sweep"
        self.plan.write_text(PLAN)

    def ask(self, engine: str, what: str) -> None:
        """What an engine does from now on."""
        (self.root / engine).write_text(what)

    def run(self, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        return self.cli("sweep", self.plan, *options, **more)

    def start(self, *options: str) -> subprocess.Popen[str]:
        """The command, going on."""
        return subprocess.Popen(
            [sys.executable, "-m", "clipperf", "sweep", str(self.plan), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def until(self, engine: str) -> int:
        """Wait until an engine is open; the process that has it."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for line in self.lines():
                name, pid = line.split()
                if name == engine and psutil.pid_exists(int(pid)):
                    return int(pid)
            time.sleep(0.02)
        raise AssertionError(f"{engine} was not opened: {self.lines()}")

    def lines(self) -> list[str]:
        path = self.root / "opened"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def opened(self) -> Counter[str]:
        """How often each engine was opened."""
        return Counter(line.split()[0] for line in self.lines())

    def rows(self) -> dict[str, str]:
        """The status of each cell that is on disk."""
        found = {}
        for path in sorted((self.out / "cells").glob("clipperf*.json")):
            for row in store.read_result(path).measurements:
                found[f"{row.cell.runtime}-{row.cell.batch}"] = row.status
        return found

    def leftovers(self) -> list[Path]:
        """Staging and locks."""
        return [p for p in self.out.rglob(".*") if p.name.startswith(PREFIX) or ".lock" in p.name]


@pytest.fixture
def place(install: Install, cli: Cli, home: Path, tmp_path: Path, monkeypatch) -> Place:
    root = tmp_path / "here"
    root.mkdir()
    monkeypatch.setenv("TOYS", str(root))
    install("sweep_toys", TOYS, POINTS)
    return Place(root, cli)


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    return out, err


# --- a whole one ---------------------------------------------------------------------------


def test_a_sweep_is_done_once_and_then_it_is_there(place: Place) -> None:
    done = place.run(check=True)
    assert place.rows() == dict.fromkeys(ALL, "ok") and place.opened == Counter(ALL)
    assert "6 cells: 6 measured, 0 there already, 0 left; 0 failed" in done.stdout
    steps = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert [step.split("]")[0] for step in steps] == ["[2/6", "[4/6", "[6/6"]
    assert "finished, about" in steps[0] and "left" in steps[0]
    assert (place.out / "report.html").read_text().startswith("<!doctype html>")
    assert not place.leftovers()
    before = {path: path.stat().st_mtime_ns for path in (place.out / "cells").iterdir()}
    done = place.run(check=True)
    assert "0 measured, 6 there already" in done.stdout and place.opened == Counter(ALL)
    assert before == {path: path.stat().st_mtime_ns for path in (place.out / "cells").iterdir()}


def test_a_dry_run_says_what_is_left(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is damaged is, and so is what nobody has begun."""
    monkeypatch.setenv("COLUMNS", "200")  # so that no row is folded, however long things take
    place.plan.write_text(PLAN.replace("[1, 2, 3]", "[1, 2]"))
    place.run(check=True)
    place.plan.write_text(PLAN)
    (damaged,) = (place.out / "cells").glob("clipperf-sample*batch2*.json")
    damaged.write_text("{")
    before = sorted(path.name for path in place.out.rglob("*"))
    done = place.run("--dry-run", check=True)
    assert "6 cells in 3 groups; 2 there already, 4 left: about" in done.stdout
    states = [line.split()[-1] for line in done.stdout.splitlines() if "one fp32" in line]
    assert states[:2] == ["there", "begun"] and states[2] not in ("there", "begun")
    told = [json.loads(x) for x in place.run("--dry-run", "--json-lines").stdout.splitlines()]
    assert [each["there"] for each in told[:-1]] == [True] * 2 + [False] * 4
    assert [each["unit_s"] > 0 for each in told[:-1]] == [False] * 2 + [True] * 4
    plan = told[-1]
    assert (plan["cells"], plan["valid"], plan["left"]) == (6, 2, 4)
    assert plan["seconds"] == pytest.approx(sum(each["unit_s"] for each in told[2:-1]) / 2)
    assert sorted(path.name for path in place.out.rglob("*")) == before


@pytest.mark.slow
def test_a_plan_that_grows_measures_what_is_new(place: Place) -> None:
    place.plan.write_text(PLAN.replace("[1, 2, 3]", "[1]"))
    place.run(check=True)
    place.plan.write_text(PLAN + '[[exclude]]\nruntime = "two"\nbatch = 3\n')
    done = place.run("--json-lines", check=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert not done.stderr
    assert [each["event"] for each in told if each["event"] in ("valid", "finished")] == [
        *("valid", "finished", "finished")
    ]
    counts = {"cells": 5, "measured": 3, "valid": 2, "left": 0, "failed": 0}
    report = str(place.out / "report.html")
    assert told[0]["event"] == "begin"
    assert told[-1] == {"event": "end", "report": report, **counts}
    rows = [each for each in told if each["event"] == "measured"]
    assert len(rows) == 3 and all(each["total"] == 5 for each in rows)
    last = [each for each in told if each["event"] == "finished"][-1]
    assert (last["done"], last["left_s"]) == (5, 0.0) and Path(last["path"]).is_file()
    assert place.opened == Counter([each for each in ALL if each != "two-3"])
    place.plan.write_text(PLAN.replace("[1, 2, 3]", "[1]"))
    place.run(check=True)
    assert set(place.rows()) == {"one-1", "two-1"}, "what is in the folder is the plan's"
    place.plan.write_text(PLAN.replace("[1, 2, 3]", "[1, 2]"))
    place.run(check=True)
    assert place.opened == Counter([each for each in ALL if each != "two-3"]), "and comes back"
    assert set(place.rows()) == {"one-1", "two-1", "one-2", "two-2"}


@pytest.mark.slow
def test_a_dry_run_says_what_there_is_and_does_nothing(place: Place) -> None:
    place.plan.write_text(PLAN.replace('"two"]', '"two", "ort-trt"]'))
    done = place.run("--dry-run", check=True)
    assert "one fp32, two fp32" in done.stdout and "6 cells in 3 groups: about" in done.stdout
    assert "unsupported: clipperf-sample image ort-trt fp32 cuda batch 1, " in done.stdout
    assert not place.out.exists() and not place.opened
    done = place.run("--dry-run", "--json-lines", check=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = Counter(each["event"] for each in told)
    assert kinds == {"cell": 6, "unsupported": 3, "plan": 1}
    plan = told[-1]
    assert plan["cells"] == 6 and 0 < plan["seconds"] <= plan["most_s"] and plan["disk_bytes"] > 0
    done = place.run()
    assert done.returncode == 0 and "unsupported: clipperf-sample image ort-trt" in done.stderr
    (held,) = [store.read_result(place.out / "cells" / "unsupported.json")]
    assert {row.status for row in held.measurements} == {"unsupported"}
    report = (place.out / "report.html").read_text()
    assert "runtime ort-trt on cuda: " in report


def test_what_cannot_be_followed_is_exit_2_and_one_line(place: Place) -> None:
    for text, said in (
        (PLAN + "batch = 3", "'batch' is not known; there are"),
        (PLAN.replace("clipperf-sample", "ViT-B-33"), "did you mean"),
        (PLAN.replace('"two"', '"three"'), "no runtime 'three'"),
        (PLAN + 'datasets = ["nope"]', "no dataset at"),
    ):
        place.plan.write_text(text)
        done = place.run()
        assert done.returncode == 2 and said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    place.plan.write_text(PLAN)
    (place.root / "photos").mkdir()
    (place.root / "photos" / "1.png").write_bytes(b"x")
    done = place.run("--out", str(place.root / "photos"))
    assert done.returncode == 2 and "holds something else than a sweep" in done.stderr
    assert not place.opened


@pytest.mark.slow
def test_any_launcher_takes_its_groups(place: Place) -> None:
    place.run("--launcher", "fleet", check=True)
    assert place.rows() == dict.fromkeys(ALL, "ok") and place.opened == Counter(ALL)
    found = [store.read_result(p) for p in (place.out / "cells").glob("clipperf*batch*.json")]
    machines = {
        (row.cell.batch, row.env_id, *(each.id for each in result.environments))
        for result in found
        for row in result.measurements
    }
    one, two = ("machine-1",) * 2, ("machine-2",) * 2
    assert machines == {(1, *one), (2, *two), (3, *one)}, "with the machine of its own"
    done = place.run("--launcher", "fleet", check=True)
    assert "0 measured, 6 there already" in done.stdout


# --- interrupted ---------------------------------------------------------------------------


def test_ctrl_c_once_finishes_what_is_measured_and_writes_the_report(place: Place) -> None:
    place.ask("two-2", "wait")
    process = place.start()
    place.until("two-2")
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "it goes on with this group"
    place.ask("two-2", "")
    out, err = ended(process)
    assert process.returncode == 130
    assert "finishing what is being measured" in err and err.endswith("interrupted\n")
    assert "Traceback" not in err and "4 measured, 0 there already, 2 left" in out
    assert place.rows() == dict.fromkeys(ALL[:4], "ok")
    assert (place.out / "report.html").exists() and not place.leftovers()
    done = place.run(check=True)
    assert "2 measured, 4 there already" in done.stdout
    assert place.rows() == dict.fromkeys(ALL, "ok") and place.opened == Counter(ALL)


@pytest.mark.slow
def test_ctrl_c_twice_stops_now_and_the_group_is_done_again_as_a_whole(place: Place) -> None:
    place.ask("two-2", "wait")
    process = place.start()
    worker = place.until("two-2")
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 130 and err.endswith("interrupted\n")
    assert "Traceback" not in err and not psutil.pid_exists(worker)
    assert place.rows() == dict.fromkeys(ALL[:2], "ok") and not place.leftovers()
    place.ask("two-2", "")
    place.run(check=True)
    assert place.rows() == dict.fromkeys(ALL, "ok")
    # Its partner took turns with it, so that it is measured again, too.
    assert place.opened == Counter([*ALL, "one-2", "two-2"])


def test_kill_9_of_the_parent_costs_the_group_that_was_measured(place: Place) -> None:
    place.ask("one-3", "wait")
    process = place.start()
    worker = place.until("one-3")
    process.kill()
    ended(process)
    psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], timeout=10)
    assert not psutil.pid_exists(worker), "workers die with their parent"
    assert place.rows() == dict.fromkeys(ALL[:4], "ok")
    place.ask("one-3", "")
    place.run(check=True)
    assert place.rows() == dict.fromkeys(ALL, "ok") and not place.leftovers()
    assert place.opened == Counter([*ALL, "one-3"])


@pytest.mark.slow
def test_kill_9_of_a_worker_is_made_good_in_the_same_command(place: Place) -> None:
    place.ask("two-1", "wait")
    process = place.start()
    os.kill(place.until("two-1"), signal.SIGKILL)
    place.ask("two-1", "")
    out, err = ended(process)
    assert process.returncode == 0, err
    assert "once more, a process of it was killed" in err
    assert "6 measured" in out and place.rows() == dict.fromkeys(ALL, "ok")
    assert place.opened == Counter([*ALL, "one-1", "two-1"])
    assert not list((place.out / "cells").glob("*-killed.json"))


@pytest.mark.slow
def test_a_cell_that_is_always_killed_fails_and_is_tried_by_the_next_command(place: Place) -> None:
    place.plan.write_text(PLAN.replace("[1, 2, 3]", "[1]"))
    place.ask("two-1", "wait")
    process = place.start()
    for _ in range(2):
        worker = place.until("two-1")
        os.kill(worker, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], 10)
    out, err = ended(process)
    assert process.returncode == 1 and "killed by SIGKILL" in err and "1 failed" in out
    assert place.rows() == {"one-1": "ok", "two-1": "failed"}
    place.ask("two-1", "")
    place.run(check=True)
    assert place.rows() == {"one-1": "ok", "two-1": "ok"}


@pytest.mark.slow
def test_what_fails_by_itself_is_a_result_and_not_tried_again(place: Place) -> None:
    place.ask("two-2", "fail")
    done = place.run()
    assert done.returncode == 1 and "failed: clipperf-sample image two fp32" in done.stderr
    assert place.rows() == {**dict.fromkeys(ALL, "ok"), "two-2": "failed"}
    done = place.run()
    assert done.returncode == 1 and "0 measured, 5 there already, 0 left; 1 failed" in done.stdout
    assert place.opened == Counter(ALL)


@pytest.mark.slow
def test_a_cell_over_its_limit_is_ended_and_tried_again_under_another(place: Place) -> None:
    place.ask("one-2", "eat")
    place.plan.write_text(PLAN + "[limits]\nram_gb = 0.25\n")
    done = place.run()
    assert done.returncode == 1 and "over the limit of 256.0 MiB RAM" in done.stderr
    assert place.rows() == {**dict.fromkeys(ALL, "ok"), "one-2": "failed"}
    place.run()
    assert place.opened == Counter(ALL), "the limit is as it was"
    place.plan.write_text(PLAN + "[limits]\nram_gb = 1\n")
    place.run(check=True)
    assert place.opened == Counter([*ALL, "one-2", "two-2"])
    for folder, there in (("cells", False), ("earlier", True)):
        found = [store.read_result(path) for path in (place.out / folder).glob("*.json")]
        assert there == any(row.ended == "limit" for result in found for row in result.measurements)


@pytest.mark.slow
def test_a_full_disk_ends_it_and_the_same_command_goes_on(place: Place, small_disk: Path) -> None:
    out, filler = small_disk / "out", small_disk / "filler"
    place.ask("two-2", "wait")
    process = place.start("--out", str(out))
    place.until("two-2")
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    place.ask("two-2", "")
    _, err = ended(process)
    assert process.returncode == 1 and "disk full while writing" in err.splitlines()[-1]
    assert "Traceback" not in err
    place.out = out
    assert place.rows() == dict.fromkeys(ALL[:2], "ok") and not place.leftovers()
    filler.unlink()
    place.run("--out", str(out), check=True)
    assert place.rows() == dict.fromkeys(ALL, "ok")
    assert place.opened == Counter([*ALL, "one-2", "two-2"])


@pytest.mark.slow
def test_two_commands_do_not_share_a_folder(place: Place) -> None:
    place.ask("one-1", "wait")
    process = place.start()
    place.until("one-1")
    done = place.run()
    assert done.returncode == 1 and "another command is writing" in done.stderr
    place.ask("one-1", "")
    ended(process)
    assert place.opened == Counter(ALL)


@pytest.mark.slow
def test_memory_rows_are_kept_by_themselves(place: Place) -> None:
    place.plan.write_text(PLAN.replace("[1, 2, 3]", "[1]").replace('"cold"', '"closed"'))
    process = place.start()
    end = time.monotonic() + 60
    while sum(place.opened.values()) < 4 and time.monotonic() < end:
        time.sleep(0.02)  # two memory passes, then both in turns
    process.kill()
    ended(process)
    assert len(list((place.out / "cells").glob("memory-*.json"))) == 2 and not place.rows()
    place.run(check=True)
    assert place.opened == {"one-1": 3, "two-1": 3}, "times alone were taken again"
    found = [store.read_result(path) for path in sorted((place.out / "cells").glob("*.json"))]
    rows = merge(found)
    assert len(rows) == 2 and all(row.rss_peak_bytes and row.p50_s for row in rows)
    (group,) = {m.group for result in found for m in result.measurements if m.kind == "time"}
    assert group == "clipperf-sample/image/fp32/cpu/threads1/batch1/closed-loop"
