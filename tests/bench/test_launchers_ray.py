"""`clipperf sweep --ray` and `eval --ray` on a real Ray cluster of several nodes on this machine.

Each node has a store of its own, so that artifacts cross through the shared folder. The nodes are
one machine here, and taken for machines of their own; see `system.cluster.machines.APART`.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cli
from packages import write_package
from ray_nodes import Nodes, node, started

from clipperf.nouns.result import ResultFile
from clipperf.system import store
from clipperf.system.cluster.machines import APART

pytestmark = pytest.mark.slow

TOYS = """
import json, os, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from clipperf.bench.jobs import Event, Scenario, row_a_cell
from clipperf.engines.contract import Availability, Runtime

HERE = Path(os.environ["TOYS"])

class Engine:
    def __init__(self, request):
        self.dim = request.spec.embed_dim
    def run(self, array):
        return np.ones((len(array), self.dim), np.float32)
    def close(self):
        pass

def runtime(name, device):
    return Runtime(name, None, ("fp32",), (device,), lambda d: Availability(True, "toy 1"), Engine)

ONE, ON_GPU = runtime("one", "cpu"), runtime("on-gpu", "cuda")

def measure(job, env, earlier, on_event):
    for cell in job.cells:
        row = job.row(cell, "time", env)
        begun = time.monotonic()
        with open(HERE / "begun", "a") as log:
            log.write(json.dumps([row.cell.batch, os.environ["NODE"], os.getpid()]) + "\\n")
        while (HERE / f"wait-{row.cell.batch}").exists():
            time.sleep(0.02)
        time.sleep(0.05)
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        with open(HERE / "spans", "a") as log:
            log.write(json.dumps([os.environ["NODE"], gpus, begun, time.monotonic()]) + "\\n")
        row = replace(row, run_s=(0.05,), blocks=(0,), stable=True)
        on_event(Event("measured", f"{row.cell.label}: cold", row))

COLD = Scenario("cold", measure, row_a_cell)
"""

POINTS = """[clipperf.runtime]
one = ray_sweep_toys:ONE
on-gpu = ray_sweep_toys:ON_GPU
[clipperf.scenario]
cold = ray_sweep_toys:COLD
"""

PLAN = """
models = ["clipperf-sample"]
towers = ["image"]
runtimes = ["one"]
batches = [1, 2, 3, 4, 5, 6]
threads = [1]
scenarios = ["cold"]
quick = true
"""

REAL = """
models = ["clipperf-sample"]
towers = ["image"]
runtimes = ["onnx"]
batches = [1, 2]
threads = [1]
quick = true
datasets = ["{dataset}"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the toys note what they do, and where they are installed."""
    root = tmp_path_factory.mktemp("ray")
    write_package(root / "site", "ray_sweep_toys", TOYS, POINTS)
    return root


@pytest.fixture(scope="module")
def shared_env(place: Path, checkpoints: Path) -> dict[str, str]:
    """What the command and all nodes have in their environment."""
    path = os.pathsep.join((str(place / "site"), str(checkpoints), str(ROOT)))
    sample = str(checkpoints / "a")
    return {"PYTHONPATH": path, "TOYS": str(place), "CLIPPERF_TEST_SAMPLE": sample}


@pytest.fixture(scope="module")
def nodes(place: Path, shared_env: dict[str, str]) -> Iterator[Nodes]:
    """Three nodes: one without a GPU, and two with a GPU each."""
    made = [node(place / f"home-{n}", gpus=int(n > 0), NODE=f"{n}", **shared_env) for n in range(3)]
    with started(made) as running:
        yield running


@pytest.fixture
def sweep(
    place: Path, shared_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> Iterator[Cli]:
    """The command line as the toys and the nodes take it."""
    for name, value in {**shared_env, APART: "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("begun", "spans"):
        (place / name).unlink(missing_ok=True)
    yield cli
    for path in place.glob("wait-*"):
        path.unlink()


def lines(place: Path, name: str) -> list[Any]:
    """What the toys have noted."""
    path = place / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def results(folder: Path) -> list[ResultFile]:
    return [store.read_result(path) for path in sorted((folder / "cells").glob("*.json"))]


def cells_in(folder: Path) -> list[tuple[str, ...]]:
    """The rows and scores in a sweep's folder, each by all but its figures."""
    found: list[tuple[str, ...]] = []
    for result in results(folder):
        machines = {env.id for env in result.environments}
        for row in result.measurements:
            assert row.env_id in machines
            found.append((row.kind, row.status, str(row.cell)))
        found += scores_of(result)
    return sorted(found)


def scores_of(result: ResultFile) -> list[tuple[str, ...]]:
    """Scores with their figures, which are the same on each machine of a kind."""
    machines = {env.id for env in result.environments}
    assert all(score.env_id in machines for score in result.scores)
    return sorted(
        (score.dataset, score.metric, f"{score.value:.6f}", str(score.cell))
        for score in result.scores
    )


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_the_same_cells_with_and_without(
    sweep: Cli, nodes: Nodes, place: Path, tmp_path: Path, samples: str
) -> None:
    """Memory, times and scores; artifacts are exported on one node, and fetched by the others."""
    plan = tmp_path / "real.toml"
    plan.write_text(REAL.format(dataset=samples))
    sweep("sweep", plan, check=True)
    address = ("--ray", nodes.address)
    far = tmp_path / "far"
    shared = f"file://{tmp_path}/shared"
    sweep("sweep", *address, plan, "--out", far, "--ray-store", shared, check=True)
    assert cells_in(far) == cells_in(tmp_path / "real.sweep")
    kinds = {kind for kind, *_ in cells_in(far)}
    assert {"memory", "time"} < kinds
    # Each tower was made once: in whichever stores it lies, it is the same with its history.
    towers: dict[str, set[tuple[str, float]]] = {}
    for path in place.glob(f"home-*/artifacts/*/*/*/{store.MANIFEST_NAME}"):
        for tower in store.read_manifest(path.parent).towers:
            towers.setdefault(tower.key, set()).add(
                (str(sorted(tower.files.items())), tower.build_s)
            )
    assert len(towers) == 2 and all(len(found) == 1 for found in towers.values())
    assert not list((tmp_path / "shared" / "tasks").iterdir()), "what has come home is removed"
    # What `eval --ray` gives is the same, too.
    out = tmp_path / "eval.json"
    sweep(
        *("eval", "clipperf-sample", "--runtime", "onnx", "--dataset", samples, "--threads", "1"),
        *(*address, "--ray-store", shared, "--json", out),
        check=True,
    )
    assert scores_of(store.read_result(out)) == [row for row in cells_in(far) if len(row) == 4]
    # A sweep without Ray finds all of it: the nodes are this machine.
    done = sweep("sweep", plan, "--out", far, check=True)
    assert "0 measured" in done.stdout, done.stdout


def test_two_cells_never_share_a_gpu_or_a_machine(
    sweep: Cli, nodes: Nodes, place: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "gpu.toml"
    plan.write_text(PLAN.replace('["one"]', '["on-gpu"]'))
    sweep("sweep", plan, "--ray", nodes.address, check=True)
    spans = lines(place, "spans")
    assert len(spans) == 6
    assert {(name, gpu) for name, gpu, *_ in spans} == {("1", "0"), ("2", "0")}
    for name in "12":
        own = sorted(span[2:] for span in spans if span[0] == name)
        assert all(end <= begun for (_, end), (begun, _) in itertools.pairwise(own))


def test_a_worker_that_is_killed_is_done_again_and_said(
    sweep: Cli, nodes: Nodes, place: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    (place / "wait-2").touch()

    def kill() -> None:
        until(lambda: any(batch == 2 for batch, *_ in lines(place, "begun")))
        (pid,) = (pid for batch, _, pid in lines(place, "begun") if batch == 2)
        os.kill(pid, signal.SIGKILL)
        (place / "wait-2").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    done = sweep("sweep", plan, "--ray", nodes.address, check=True)
    killer.join()
    assert "a worker on" in done.stderr and "died" in done.stderr
    assert [row[0] for row in cells_in(tmp_path / "plan.sweep")] == ["time"] * 6
    notes = [note for result in results(tmp_path / "plan.sweep") for note in result.notes]
    assert sum("died" in note and "once more" in note for note in notes) == 1
    assert sum(note.startswith("measured on") for note in notes) == 6
    assert any("nodes of one machine" in note for note in notes)


def test_a_folder_that_the_machines_do_not_see_is_refused(
    sweep: Cli, nodes: Nodes, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    done = sweep("sweep", plan, "--ray", nodes.address, "--ray-store", "memory://here")
    assert done.returncode == 1 and "does not see memory://here" in done.stderr
    assert "--ray-store a folder that all machines see" in done.stderr
    sweep("sweep", plan, "--ray", nodes.address, "--dry-run", check=True)
    assert not (tmp_path / "plan.sweep").exists(), "it only says what there is to do"


def test_options_that_mean_nothing_are_refused(sweep: Cli, nodes: Nodes, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    done = sweep("sweep", plan, "--ray-store", "there")
    assert done.returncode == 2 and "--ray-store is for --ray" in done.stderr
    plan.write_text('device = "cuda:1"\n' + PLAN.replace('["one"]', '["on-gpu"]'))
    done = sweep("sweep", "--ray", nodes.address, plan)
    assert done.returncode == 2 and "each machine works on GPUs of its own" in done.stderr


def test_a_node_that_is_killed_loses_nothing(
    sweep: Cli, nodes: Nodes, place: Path, tmp_path: Path
) -> None:
    """The last test: it takes a node away. The cluster is found by RAY_ADDRESS."""
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    for batch in range(1, 7):
        (place / f"wait-{batch}").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "clipperf", "sweep", "--ray", str(plan)],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": nodes.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: len(lines(place, "begun")) == 3)  # each node has one
    (lost,) = (batch for batch, name, _ in lines(place, "begun") if name == "2")
    nodes.kill(2)
    for batch in range(1, 7):
        (place / f"wait-{batch}").unlink()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "was lost" in said
    rows = cells_in(tmp_path / "plan.sweep")
    assert [(kind, status) for kind, status, _ in rows] == [("time", "ok")] * 6
    assert len({cell for *_, cell in rows}) == 6
    counted = [batch for batch, *_ in lines(place, "begun")]
    assert {batch: counted.count(batch) for batch in counted} == {
        batch: 2 if batch == lost else 1 for batch in range(1, 7)
    }
