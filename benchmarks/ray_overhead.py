"""What a Ray cluster costs a sweep: cells of known cost on local clusters of several nodes.

    python benchmarks/ray_overhead.py [--cells 1000] [--nodes 1,2,4] [--cost-s 0.05] [--save]

Each cell is a comparison group of its own, and so a Ray task, which sleeps for the known time and
gives one row: nothing is cheaper to measure, and so nothing shows better what is around it. The
sweep is the real command, `clipperf sweep --ray`, with all that it does for a group: the task on a
node that it has to itself, its rows through the shared folder with their checksums, the result
file of the group, synced. What a cell costs beyond its own time is what its node was not measuring
for, while the sweep measured: seconds times nodes, less the cells' own, over the cells. Starting
the cluster and writing the report are not in it; the seconds of the whole command stand beside it.

The nodes are simulated: processes on this machine, with a store each, which share its cores, its
memory and its disk, and no network lies between them. `--save` writes `results/ray-overhead.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import asked

from clipperf.system import env
from clipperf.system.cluster.machines import APART
from clipperf.system.files import utc_now, write_text

ROOT = Path(__file__).parent.parent
SAVED = ROOT / "results" / "ray-overhead.md"
BOUND_S = 0.150

MODULE = """
import time
from dataclasses import replace
from clipperf.bench.jobs import Event, Scenario, row_a_cell
from clipperf.engines.contract import Availability, Runtime

def never(request):
    raise NotImplementedError("nothing is loaded")

def measure(job, env, earlier, on_event):
    for cell in job.cells:
        time.sleep({cost_s})
        row = replace(job.row(cell, "time", env), run_s=({cost_s},), blocks=(0,), stable=True)
        on_event(Event("measured", row.cell.label, row))

RUNTIME = Runtime("known", None, ("fp32",), ("cpu",), lambda d: Availability(True, ""), never)
SCENARIO = Scenario("known", measure, row_a_cell)
"""

POINTS = """[clipperf.runtime]
known = known_cost:RUNTIME
[clipperf.scenario]
known = known_cost:SCENARIO
"""


@dataclass(frozen=True)
class Run:
    """One sweep: its nodes, seconds while it measured, and of the command."""

    nodes: int
    cells: int
    cost_s: float
    measuring_s: float
    command_s: float

    @property
    def overhead_s(self) -> float:
        """Seconds of a node for each cell, beyond the cell's own."""
        return (self.measuring_s * self.nodes - self.cells * self.cost_s) / self.cells


def install(folder: Path, cost_s: float) -> dict[str, str]:
    """A package with the runtime and the scenario; the environment that has it."""
    from packages import write_package

    site = folder / "site"
    write_package(site, "known_cost", MODULE.format(cost_s=cost_s), POINTS)
    return {"PYTHONPATH": os.pathsep.join((str(site), str(ROOT))), APART: "1"}


def swept(
    folder: Path, shared: dict[str, str], run: tuple[int, int, float], more: list[str]
) -> Run:
    """One sweep of so many cells, timed by what it says on its way."""
    nodes, cells, cost_s = run
    plan = folder / f"plan-{nodes}.toml"
    plan.write_text(
        'models = ["clipperf-sample"]\ntowers = ["image"]\nruntimes = ["known"]\n'
        f'scenarios = ["known"]\nthreads = [1]\nbatches = {list(range(1, cells + 1))}\n'
    )
    begun_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "clipperf", "sweep", str(plan), "--json-lines", *more],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **shared, "CLIPPERF_HOME": str(folder / "home")},
    )
    assert process.stdout is not None
    first_s = last_s = begun_s
    done = 0
    for line in process.stdout:
        event = json.loads(line)["event"]
        if event == "begin":
            first_s = time.monotonic()
        elif event == "finished":
            done, last_s = done + 1, time.monotonic()
    if process.wait() or done != cells:
        raise SystemExit(f"{done} of {cells} cells were measured, exit code {process.returncode}")
    return Run(nodes, cells, cost_s, last_s - first_s, time.monotonic() - begun_s)


def measured(nodes: int, cells: int, cost_s: float) -> Run:
    """One sweep on a local cluster of so many nodes."""
    sys.path.insert(0, str(ROOT / "tests"))
    from ray_nodes import node, started

    with tempfile.TemporaryDirectory(prefix="clipperf-ray-") as temp:
        folder = Path(temp)
        shared = install(folder, cost_s)
        run = (nodes, cells, cost_s)
        made = [node(folder / f"node-{number}", **shared) for number in range(nodes)]
        with started(made) as cluster:
            place = ["--ray", cluster.address, "--ray-store", f"file://{folder}/shared"]
            return swept(folder, shared, run, place)


def page(runs: list[Run]) -> str:
    """The table, as Markdown, with what it was measured on."""
    import ray

    here = env.capture()
    lines = [
        "# Overhead of a sweep on a Ray cluster",
        "",
        f"{utc_now()}; {here.cpu}, {here.cores} cores for all nodes together; Python "
        f"{here.python}, Ray {ray.__version__}, clipperf {here.versions.get('clipperf', '')}. "
        "The nodes were simulated: processes of one machine, without a network between them. Made "
        "by `python benchmarks/ray_overhead.py`.",
        "",
        "| nodes | cells | of known cost, s | while measuring, s | cells a second "
        "| overhead a cell, ms | whole command, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        lines.append(
            f"| {run.nodes} | {run.cells} | {run.cost_s:g} | "
            f"{run.measuring_s:.1f} | {run.cells / run.measuring_s:.1f} | "
            f"{run.overhead_s * 1e3:.0f} | {run.command_s:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=asked.count, default=1000)
    parser.add_argument("--nodes", type=asked.counts, default=[1, 2, 4])
    parser.add_argument("--cost-s", type=asked.seconds, default=0.05)
    parser.add_argument("--save", action="store_true", help=f"write {SAVED.relative_to(ROOT)}")
    options = parser.parse_args()
    runs = []
    for nodes in options.nodes:
        runs.append(measured(nodes, options.cells, options.cost_s))
        print(f"{nodes} nodes: {runs[-1].overhead_s * 1e3:.0f} ms a cell", flush=True)
    print(page(runs))
    if options.save:
        write_text(SAVED, page(runs))
    over = [run.nodes for run in runs if run.overhead_s > BOUND_S]
    if over:
        raise SystemExit(f"over {BOUND_S * 1e3:.0f} ms a cell on {over} nodes")


if __name__ == "__main__":
    asked.run(main)
