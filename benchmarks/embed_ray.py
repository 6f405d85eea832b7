"""`clipperf embed --ray` on local clusters of 1, 2 and 4 nodes, beside `clipperf embed` alone.

    python benchmarks/embed_ray.py [--nodes 1,2,4] [--texts 12800] [--images 256] [--save]

Two towers are embedded with, each through the real command, into shards that are fsynced:

- "waiting" takes a known time for a batch, for most of which it does nothing, as if a GPU worked
  beside the processor: its own rate is known, and several nodes of one machine do not share what
  it has. Its items are texts. What a node falls short of that rate is what the command and the
  cluster cost.
- a model's image tower, on images that are made here, one thread a node. The nodes share this
  machine's cores, so that it cannot get faster beyond them.

Rates are items over the seconds that the command itself counts: from when the tower is open on the
first machine until the last shard is there. Starting the command and the cluster is not in it,
nor is opening that first tower; opening those of the other nodes is. `--save` writes
`results/embed-ray.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asked
from embed import photos

from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.variant import Variant
from clipperf.system import env
from clipperf.system.files import utc_now, write_text

ROOT = Path(__file__).parent.parent
SAVED = ROOT / "results" / "embed-ray.md"
BATCH = 32

MODULE = """
import dataclasses
import time
from clipperf.engines import contract
from clipperf.engines.contract import Availability, Runtime

class Engine:
    def __init__(self, request):
        cell = dataclasses.replace(request.cell, runtime="onnx")
        self._own = contract.get("onnx").open(dataclasses.replace(request, cell=cell))
    def run(self, array):
        until = time.monotonic() + {cost_s}
        rows = self._own.run(array)
        time.sleep(max(0.0, until - time.monotonic()))
        return rows
    def close(self):
        self._own.close()

def usable(device):
    return Availability(True, "")

RUNTIME = Runtime("waiting", "onnx", ("fp32",), ("cpu",), usable, Engine)
"""


@dataclass(frozen=True)
class Run:
    """One embedding: of what, on how many nodes (0: without Ray), and how fast."""

    tower: str
    nodes: int
    items: int
    seconds: float

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.seconds


def install(folder: Path, cost_s: float) -> str:
    """A package with the runtime that waits; the PYTHONPATH that has it."""
    sys.path.insert(0, str(ROOT / "tests"))
    from packages import write_package

    site = folder / "site"
    points = "[clipperf.runtime]\nwaiting = waiting_tower:RUNTIME\n"
    write_package(site, "waiting_tower", MODULE.format(cost_s=cost_s), points)
    return os.pathsep.join((str(site), str(ROOT)))


def embedded(folder: Path, path: str, words: Sequence[object], name: str, nodes: int) -> Run:
    """One command to its end."""
    out = folder / f"out-{name}-{nodes}"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "clipperf",
            "embed",
            *map(str, words),
            "--out",
            out,
            "--json",
            "--quiet",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        raise SystemExit(f"embed ended with {done.returncode}")
    found = json.loads(done.stdout)
    return Run(name, nodes, found["tried"], found["seconds"])


def measured(
    folder: Path, path: str, kinds: dict[str, list[object]], counts: Sequence[int]
) -> list[Run]:
    """Each tower without Ray, then on clusters of so many nodes."""
    from ray_nodes import node, started

    runs = [embedded(folder, path, words, name, 0) for name, words in kinds.items()]
    for count in counts:
        made = [node(folder / f"node-{count}-{n}", PYTHONPATH=path) for n in range(count)]
        with started(made) as cluster:
            place = ("--ray", cluster.address, "--ray-store", f"file://{folder}/shared")
            for name, words in kinds.items():
                runs.append(embedded(folder, path, [*words, *place], name, count))
    return runs


def page(runs: list[Run], own: float, cost_s: float, given: Sequence[str]) -> str:
    """The tables, as Markdown, with what they were measured on."""
    import ray

    here = env.capture()
    lines = [
        "# Embedding on a Ray cluster",
        "",
        f"{utc_now()}; {here.cpu}, {here.cores} cores for all nodes together; Python "
        f"{here.python}, Ray {ray.__version__}, clipperf {here.versions.get('clipperf', '')}. "
        "The nodes were simulated: processes of one machine, without a network between them. The "
        f"tower that waits takes {cost_s:g} s for a batch of {BATCH}, {own:.0f} items a second. "
        f"Made by `{' '.join(['python benchmarks/embed_ray.py', *given])}`.",
        "",
        "| tower | nodes | items | seconds | items/s | of one node with Ray | of its own rate |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = {run.tower: run.rate for run in reversed(runs) if run.nodes}
    for run in runs:
        known = f"{run.rate / (own * max(1, run.nodes)):.2f}" if run.tower == "waiting" else ""
        lines.append(
            f"| {run.tower} | {run.nodes or 'without Ray'} | {run.items} | {run.seconds:.1f} | "
            f"{run.rate:.1f} | {run.rate / first[run.tower]:.2f} | {known} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=asked.counts, default=[1, 2, 4])
    parser.add_argument("--model", type=asked.model, default="ViT-B-32")
    parser.add_argument("--images", type=asked.count, default=256, help="images that are made")
    parser.add_argument("--texts", type=asked.count, default=12800, help="for the tower that waits")
    parser.add_argument("--cost-s", type=asked.seconds, default=0.1)
    parser.add_argument("--save", action="store_true", help=f"write {SAVED.relative_to(ROOT)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipperf-embed-ray-") as temp:
        folder = Path(temp)
        path = install(folder, options.cost_s)
        files = folder / "photos"
        photos(files, options.images)
        texts = folder / "texts.txt"
        texts.write_text("".join(f"a photo of {n} things\n" for n in range(options.texts)))
        sample = make(zoo.resolve("clipperf-sample"), ("text",), Variant("onnx")).folder
        weights = None if options.model == "clipperf-sample" else "random"
        spec = zoo.resolve(options.model, weights)
        tower = make(spec, ("image",), Variant("onnx")).folder
        shards = max(options.nodes) * 8
        whole = max(1, options.texts // shards // BATCH) * BATCH  # no batch is a part of one
        kinds: dict[str, list[object]] = {
            "waiting": [texts, "--tower", "text", "--artifact", sample, "--runtime", "waiting",
                        "--batch", BATCH, "--threads", 1, "--shard-items", whole],
            options.model: [files, "--artifact", tower, "--batch", 8, "--threads", 1,
                            "--workers", 1, "--shard-items", max(1, options.images // shards)],
        }  # fmt: skip
        runs = measured(folder, path, kinds, options.nodes)
    made = page(runs, BATCH / options.cost_s, options.cost_s, sys.argv[1:])
    print(made)
    if options.save:
        write_text(SAVED, made)


if __name__ == "__main__":
    asked.run(main)
