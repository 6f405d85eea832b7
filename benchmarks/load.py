"""How long a tower takes to open, beside reading its bytes.

    python benchmarks/load.py                     # ViT-B-32 with seeded weights, and the sample
    python benchmarks/load.py --model RN50 --rounds 9

For each tower three kinds of fresh processes take turns: one reads the artifact's files, one opens
them with nothing kept from before ("first"), one with what the runtime keeps in the store's cache
("again"; the same where a runtime keeps nothing). One untimed turn before fills that cache and the
page cache, so all of them read from RAM. Opening ends when the tower can run; importing the
runtime and the first run are apart. Medians; the ratio is that of the second kind of opening to
reading, turn by turn. CPU seconds are those of all threads, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clipperf import units
from clipperf.bench import cost, prepare
from clipperf.bench.inputs import make_inputs
from clipperf.engines import contract
from clipperf.errors import ClipperfError
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.variant import SIDES
from clipperf.serialize import from_json, to_json
from clipperf.system import store
from clipperf.system.env import available_cores
from clipperf.system.processes import status_bytes

CHOICES = (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "int8w"))
"""OpenVINO's int8 passes its gate on trained weights alone."""
CHUNK_BYTES = 2**20


def main() -> None:
    """Print one Markdown row for each tower, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    print(
        "| model | tower | runtime | MiB | read ms | first ms | again ms | again / read "
        "| read CPU ms | first CPU ms | again CPU ms | import ms | first run ms "
        "| load peak MiB | RSS MiB |\n" + "|---" * 3 + "|---:" * 12 + "|"
    )
    for model in options.model or ["ViT-B-32", "clipperf-sample"]:
        for side in SIDES:
            for runtime, precision in CHOICES:
                print(row(model, side, runtime, precision, options.rounds), flush=True)


def row(model: str, side: Any, runtime: str, precision: str, rounds: int) -> str:
    """Measure one tower."""
    spec = zoo.resolve(model, None if model == "clipperf-sample" else "random")
    cell = Cell(spec.id, side, runtime, precision, "cpu", 1, available_cores())
    try:
        request, size = prepare.engine_request(cell, spec, lambda stage: None)
    except ClipperfError as exc:
        return f"| {model} | {side} | {runtime} {precision} | no artifact: {exc} |"
    jobs = {
        "read": {"files": [str(path) for path in tower_files(request)]},
        "first": {"request": to_json(request) | {"cache_folder": None}},
        "again": {"request": to_json(request)},
    }
    turns = [{name: run(job) for name, job in jobs.items()} for _ in range(rounds + 1)][1:]

    def median(kind: str, what: str) -> float:
        return statistics.median(turn[kind][what] for turn in turns)

    ratio = statistics.median(turn["again"]["wall_s"] / turn["read"]["wall_s"] for turn in turns)
    seconds = [median(kind, "wall_s") for kind in jobs]
    cpu = [median(kind, "cpu_s") for kind in jobs]
    rest = [median("again", what) for what in ("import_s", "first_run_s")]
    peaks = [round(median("again", what)) for what in ("load_peak_bytes", "rss_bytes")]
    return (
        " | ".join(
            [
                f"| {model} | {side} | {runtime} {precision} | {units.mib(size)}",
                *(f"{1e3 * value:.0f}" for value in seconds),
                units.ratio(ratio),
                *(f"{1e3 * value:.0f}" for value in (*cpu, *rest)),
                *(units.mib(value) for value in peaks),
            ]
        )
        + " |"
    )


def tower_files(request: EngineRequest) -> list[Path]:
    """Every file of the request's tower."""
    path = Path(str(request.path))
    folder = path.parent.parent
    tower = store.read_manifest(folder).tower(request.cell.side)
    assert tower is not None
    return [folder / name for name in tower.files]


def run(job: dict[str, Any]) -> dict[str, float]:
    """One fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return dict(json.loads(done.stdout))


def child(job: dict[str, Any]) -> dict[str, float]:
    """Read files or open a tower; seconds and bytes by name."""
    if "files" in job:
        cpu_s = time.process_time()
        _, wall_s = cost.timed(lambda: read(job["files"]))
        return {"wall_s": wall_s, "cpu_s": time.process_time() - cpu_s}
    request = from_json(EngineRequest, job["request"])
    library = {"onnx": "onnxruntime"}.get(request.cell.runtime, request.cell.runtime)
    _, import_s = cost.timed(lambda: __import__(library))
    runtime = contract.get(request.cell.runtime)
    cpu_s = time.process_time()
    engine, wall_s = cost.timed(lambda: runtime.open(request))
    cpu_s = time.process_time() - cpu_s
    peak = status_bytes("VmHWM")
    inputs = make_inputs(request)
    _, first_run_s = cost.timed(lambda: engine.run(inputs))
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "import_s": import_s,
        "first_run_s": first_run_s,
        "load_peak_bytes": peak or 0,
        "rss_bytes": status_bytes("VmRSS") or 0,
    }


def read(names: list[str]) -> None:
    """Read files once, into the same memory over and over."""
    buffer = bytearray(CHUNK_BYTES)
    for name in names:
        with Path(name).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


if __name__ == "__main__":
    main()
