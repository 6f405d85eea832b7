"""What `kills` does on a Ray cluster: its nodes, what is struck on them, what may not be left."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from breaking import GONE_S, MODEL, Place

from clipperf.system import store
from clipperf.system.cluster.machines import APART
from clipperf.system.temporaries import PREFIX

ROOT = Path(__file__).resolve().parent.parent
NODES = 2
WORKER, AGENT, IDLE = "ray::", "Agent", "ray::IDLE"
"""How Ray's processes on a node are called: tasks, what looks after the node, what has no task."""
TORCHS = "torchinductor_*"
"""PyTorch's own cache among the temporary files, which it makes where it is used first."""

BRIEF_PLAN = f"""
models = ["{MODEL}"]
towers = ["text"]
runtimes = ["onnx"]
batches = [1, 2]
threads = [1]
scenarios = ["brief"]
datasets = ["few"]
quick = true
"""
"""Two groups and an evaluation."""

BRIEF = """
import time
from dataclasses import replace
from clipperf.bench.jobs import Event, Scenario, row_a_cell

def measure(job, env, earlier, on_event):
    known = {row.cell for row in earlier if row.kind == "memory"}
    for cell in job.cells:
        time.sleep(0.3)
        if cell.request.cell not in known:
            on_event(Event("measured", "memory", job.row(cell, "memory", env)))
    for cell in job.cells:
        time.sleep(0.3)
        row = replace(job.row(cell, "time", env), run_s=(0.3,), blocks=(0,), stable=True)
        on_event(Event("measured", "time", row))

SCENARIO = Scenario("brief", measure, row_a_cell)
"""
"""A scenario that measures nothing: it takes its time, and gives a row of each kind for a cell."""


class Clustered:
    """A Ray cluster of nodes with a store each, below a folder; see `started`."""

    def __init__(self, folder: Path, running: Any) -> None:
        self.folder, self._running = folder, running
        self._numbers = list(range(NODES))
        self._next = NODES
        self.address: str = running.address

    def prepare(self, place: Place) -> None:
        """Have commands of a place work here; their plan goes into its template.

        What is exported there the nodes have, too, until they are emptied.
        """
        place.cluster = self.address
        assert place.template is not None
        (place.template / "brief.toml").write_text(BRIEF_PLAN)
        for number in range(NODES):
            own = self.folder / f"node-{number}" / "artifacts"
            if not own.exists():
                shutil.copytree(place.template / "store" / "artifacts", own)

    def strike(self, whom: str, chance: random.Random) -> bool:
        """SIGKILL to a process on a node, or to a whole node, which is then started again."""
        if whom == "node":
            place = chance.randrange(NODES)
            self._running.kill(self._numbers[place])
            self._running.add(_node(self.folder, place))
            self._numbers[place], self._next = self._next, self._next + 1
            return True
        targets = [process for _, process in _workers()]
        if whom == "child":
            targets = [child for each in targets for child in each.children(recursive=True)]
        else:
            targets = [process for name, process in _workers() if name != IDLE] or targets
        if not targets:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            chance.choice(targets).kill()
        return True

    def at_work(self) -> list[str]:
        """The tasks that are still on the nodes when they should be gone."""
        until_s = time.monotonic() + GONE_S
        while found := [name for name, _ in _workers() if name != IDLE]:
            if time.monotonic() > until_s:
                return [f"still at work on a node: {name}" for name in found]
            time.sleep(0.1)
        return []

    def left(self, place: Path) -> list[str]:
        """What of commands that have ended lies on the nodes or in a shared place below `place`."""
        dots = [path for path in self.folder.glob("node-*/**/.*") if path.name.startswith(PREFIX)]
        found = self.folder.glob("scratch-*/*")  # `temporaries.scratch` and whatever else there is
        scratch = [path for path in found if not path.match(TORCHS)]
        shared = [path for name in ("tasks/*", "blobs/.*") for path in place.rglob(name)]
        return [
            f"left over: {path.relative_to(self.folder)}" for path in (*dots, *scratch, *shared)
        ]

    def damaged(self) -> list[str]:
        """What is wrong with the artifacts in the stores of the nodes."""
        found = []
        for path in self.folder.glob(f"node-*/artifacts/*/*/*/{store.MANIFEST_NAME}"):
            manifest = store.read_manifest(path.parent)
            found += [
                f"{path.parent.relative_to(self.folder)}: {problem}"
                for problem in store.check_files(path.parent, manifest, content=True)
            ]
        return found

    def empty(self) -> None:
        """Take away what the stores of the nodes hold: all of it is made once more."""
        for home in self.folder.glob("node-*"):
            for path in home.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Clustered]:
    """A cluster that outlives commands; its nodes and they know the scenario `BRIEF`."""
    sys.path.insert(0, str(ROOT / "tests"))
    import ray_nodes
    from packages import write_package

    site = folder / "site"
    if not site.exists():
        point = "[clipperf.scenario]\nbrief = clipperf_brief:SCENARIO\n"
        write_package(site, "clipperf_brief", BRIEF, point)
    paths = (str(site), str(ROOT), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ[APART] = "1"
    with ray_nodes.started([_node(folder, number) for number in range(NODES)]) as running:
        yield Clustered(folder, running)


def _node(folder: Path, number: int) -> dict[str, Any]:
    """A node with a store and a folder for temporary files of its own."""
    from ray_nodes import node

    scratch, home = folder / f"scratch-{number}", folder / f"node-{number}"
    scratch.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    path = os.environ["PYTHONPATH"]
    made: dict[str, Any] = node(home, TMPDIR=str(scratch), PYTHONPATH=path)
    return made


def _workers() -> list[tuple[str, psutil.Process]]:
    """Ray's worker processes on all nodes, by what they do."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
            name = process.cmdline()[0]
            if name.startswith(WORKER) and not name.endswith(AGENT):
                found.append((name, process))
    return found
