"""A sizing of the sample, and how far its numbers are from a simulation and from the running thing.

    python benchmarks/sizing_shown.py FOLDER [--quick] [--only STEP,STEP] [--triton DIRECTORY]

Two runtimes, four batches, server scenarios, an evaluation, `clipperf size`, a report; then the
recommended configuration runs for 30 s under LoadGen at the rate that is planned for one replica,
in a process of its own and, where `tritonserver` is found, in Triton. Every step leaves files in
FOLDER and is not done again where these are; FOLDER/table.md is printed at the end. Give it a
machine that has nothing else to do; with --quick all of it takes some ten minutes.

Triton's Python has to find clipperf, see `docs/deploying.md`: CLIPPERF_PACKAGES says where.
--triton: where its backends are, default: beside the program.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sizing_queue import play

from clipperf import units
from clipperf.models import sample
from clipperf.nouns.result import ResultFile
from clipperf.report.instances import beside
from clipperf.report.largest import largest_of
from clipperf.report.records import merge
from clipperf.report.serving import Line, lines_of
from clipperf.report.sizing.queueing import Service, expected, highest_rate
from clipperf.report.sizing.service import harnesses, service_at, with_harness
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.types import Deployment, Option, Targets
from clipperf.system.store import read_result

MODEL = "clipperf-sample"
TOWERS = ("image", "text")
SLO_MS = 50
MAX_BATCH = 8
TARGETS = Targets(images_per_s=200, texts_per_s=400, slo_s=SLO_MS / 1e3, max_loss=0.01)
TOLD = f"images_per_s = {TARGETS.images_per_s}\ntexts_per_s = {TARGETS.texts_per_s}\n"
TOLD += f"slo_ms = {SLO_MS}\nmax_loss = {100 * (TARGETS.max_loss or 0)}\n"
ASKED = ("--runtime", "onnx", "--precision", "int8")
ANSWERS = 200_000
READY_S = 120
ENDED_S = 60

Row = tuple[str, ...]


def clipperf(*words: str, into: Path | None = None) -> None:
    """Run a command of clipperf's; one that fails ends this script.

    Its result file gets its name when it is whole.
    """
    print("$ clipperf", *words, flush=True)
    part = None if into is None else into.with_suffix(".part")
    named = () if part is None else ("--json", str(part))
    subprocess.run([sys.executable, "-m", "clipperf", *words, *named, "--quiet"], check=True)
    if part is not None and into is not None:
        part.replace(into)


def measure(folder: Path, only: set[str], quick: tuple[str, ...]) -> None:
    """The result files that are not there yet."""
    bounded = ("--scenario", "server", "--slo-ms", str(SLO_MS), "--max-batch", str(MAX_BATCH))
    steps: dict[str, tuple[str, ...]] = {
        **{
            f"closed-{tower}": (
                *("profile", MODEL, "--tower", tower, *ASKED),
                *("--batch", "1,4,8,32", "--ram-gb", "0.5", *quick),
            )
            for tower in TOWERS
        },
        **{
            f"server-{tower}": ("profile", MODEL, "--tower", tower, *ASKED, *bounded, *quick)
            for tower in TOWERS
        },
        "eval": ("eval", MODEL, *ASKED),
    }
    for name, words in steps.items():
        step(folder, only, name, *words)


def step(folder: Path, only: set[str], name: str, *words: str) -> None:
    """Make the result file of a step with a command, where it is not there and wanted."""
    path = folder / f"{name}.json"
    if not path.exists() and (not only or name in only):
        clipperf(*words, into=path)


def measure_the_rest(folder: Path, only: set[str], quick: tuple[str, ...]) -> None:
    """PyTorch beside it at three batches, and two replicas of one thread at the same time."""
    for tower in TOWERS:
        both = ("--runtime", "torch,onnx", "--precision", "int8", "--batch", "1,8,32")
        step(folder, only, f"torch-{tower}", "profile", MODEL, "--tower", tower, *both, *quick)
    asked = ("profile", MODEL, *ASKED, "--batch", str(MAX_BATCH), "--threads", "1")
    step(folder, only, "instances", *asked, "--instances", "1,2", *quick)


def read(folder: Path, *names: str) -> list[ResultFile]:
    """The files of some steps."""
    return [read_result(folder / f"{name}.json") for name in names]


def run_option(folder: Path, option: Option, rate: float, only: set[str]) -> None:
    """The configuration at a rate for 30 s, in a process of its own."""
    cell = option.cell
    step(
        *(folder, only, f"run-{cell.side}"),
        *("profile", MODEL, "--tower", cell.side, "--runtime", cell.runtime),
        *("--precision", cell.precision, "--threads", str(cell.threads)),
        *("--scenario", "server", "--slo-ms", str(SLO_MS), "--max-batch", str(cell.batch)),
        *("--rate", f"{rate:.6g}"),
    )


def run_in_triton(
    folder: Path, plan: Deployment, rates: dict[str, float], only: set[str], backends: str | None
) -> None:
    """The same towers at the same rates, asked over HTTP; nothing where there is no Triton."""
    program = shutil.which("tritonserver")
    wanted = [t for t in rates if not (folder / f"triton-{t}.json").exists()]
    if program is None or not wanted or (only and "triton" not in only):
        return
    photos = folder / "photos"
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith((".png", ".jpg"))][:256]
        archive.extractall(photos, names)
    repository = folder / "repository"
    first = plan.towers[0].cell
    if not repository.exists():
        clipperf(
            *("export", MODEL, "--runtime", first.runtime, "--precision", first.precision),
            *("--layout", "triton", "--out", str(repository)),
        )
    with triton(program, repository, backends, folder / "triton.log") as url:
        for tower in wanted:
            files = ("--from-files", str(photos / Path(names[0]).parent)) * (tower == "image")
            clipperf(
                *("profile", MODEL, "--endpoint", url, "--protocol", "kserve", "--tower", tower),
                *("--scenario", "server", "--slo-ms", str(SLO_MS), *files),
                *("--rate", f"{rates[tower]:.6g}"),
                into=folder / f"triton-{tower}.json",
            )


@contextlib.contextmanager
def triton(program: str, repository: Path, backends: str | None, log: Path) -> Iterator[str]:
    """A server of both towers; yields its URL."""
    ports = []
    for _ in range(3):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            ports.append(found.getsockname()[1])
    words = [program, f"--model-repository={repository}", "--model-control-mode=explicit"]
    words += [f"--load-model=clip_{tower}" for tower in TOWERS]
    words += [f"--{k}-address=127.0.0.1" for k in ("http", "grpc", "metrics")]
    words += [f"--{k}-port={p}" for k, p in zip(("http", "grpc", "metrics"), ports, strict=True)]
    words += [f"--backend-directory={backends}"] if backends else []
    with open(log, "wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, env=dict(os.environ))
    try:
        url = f"http://127.0.0.1:{ports[0]}"
        end = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5).read()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"Triton did not start: see {log}")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- what is compared ----------------------------------------------------------------------


def row_of(results: list[ResultFile], option: Option, batch: int | None = None) -> Service:
    """The engine of an option as its closed loops tell it."""
    rows = merge(results)
    wanted = dataclasses.replace(
        option.cell, scenario="closed-loop", batch=batch or option.cell.batch
    )
    return service_at(next(r for r in rows if r.cell == wanted), rows)[0]


def only_line(folder: Path, name: str) -> Line | None:
    """The only row of a step that offered inputs; None where it was not done."""
    if not (folder / f"{name}.json").exists():
        return None
    return lines_of(read(folder, name))[0]


def off(found: float, told: float) -> str:
    """How far a figure is from what was told."""
    return f"{round(100 * (found / told - 1)):+d} %".replace("+0 ", "0 ")


def compared(folder: Path, closed: list[ResultFile], every: list[ResultFile]) -> list[Row]:
    """A row for each number of the sizing."""
    plan = size(every, TARGETS).plans[0]
    found: list[Row] = []
    for option in plan.towers:
        found += of_tower(folder, closed, every, option, per_replica(option))
    for each in largest_of(closed):
        if each.limit_bytes is None or each.peak_bytes is None:
            continue
        ran = each.failed or "-"
        if each.measured_bytes is not None:
            ran = f"{units.size(each.measured_bytes)}, {off(each.measured_bytes, each.peak_bytes)}"
        found.append(
            (
                f"{each.cell.side}, {each.cell.setup}: peak of batch {each.batch}, the largest "
                f"foreseen within {units.size(each.limit_bytes)}",
                f"{units.size(round(each.peak_bytes))}, "
                f"margin {units.size(round(each.margin_bytes or 0))}",
                f"a line through batches {', '.join(map(str, each.batches))}",
                "-",
                ran,
                "-",
            )
        )
    done = (folder / "instances.json").exists()
    for pair in beside(merge(read(folder, "instances"))) if done else ():
        row, first = pair.row, pair.first
        if row is first or row.items_per_s is None or first.items_per_s is None:
            continue
        twice = first.items_per_s * row.cell.instances
        found.append(
            (
                f"{row.cell.side}, {row.cell.setup}: {row.cell.instances} replicas of "
                f"{row.cell.threads} threads on this machine, without pause",
                f"{units.rate(twice)}/s",
                "one alone, times as many (what is assumed without `--instances`)",
                "-",
                f"{units.rate(row.items_per_s)}/s, {off(row.items_per_s, twice)}",
                "-",
            )
        )
    return found


def per_replica(option: Option) -> float:
    """The rate that is planned for one replica."""
    assert option.replicas is not None
    return TARGETS.of(option.cell.side) / (option.replicas - TARGETS.spare)


def of_tower(
    folder: Path, closed: list[ResultFile], every: list[ResultFile], option: Option, rate: float
) -> list[Row]:
    """What the sizing says of one tower, beside the simulation and both runs."""
    side, slo_s, q = option.cell.side, SLO_MS / 1e3, TARGETS.percentile
    name = f"{side}, {option.cell.setup}, batch up to {option.cell.batch}"
    bare = row_of(closed, option)
    served = only_line(folder, f"server-{side}")
    held = served.trial.rate_per_s if served and served.trial else None
    rows = merge(closed)
    costs = harnesses([line for line in lines_of(every) if not line.cell.is_remote], rows)
    harness = next((h for (_, s), h in costs.items() if s == side), None)
    theirs = next((h for (_, s), h in costs.items() if s != side), None)
    own = with_harness(bare, harness.each_s) if harness else bare
    ran, there = (only_line(folder, f"{where}-{side}") for where in ("run", "triton"))
    found: list[Row] = []
    if held is not None:
        least = dataclasses.replace(option.cell, scenario="closed-loop", batch=MAX_BATCH)
        at_most = row_of(closed, dataclasses.replace(option, cell=least))
        guesses = {"times of single calls": at_most}
        if theirs is not None:
            text = f"the same, and {units.seconds(theirs.each_s)} an input, from the other tower"
            guesses[text] = with_harness(at_most, theirs.each_s)
        for basis, service in guesses.items():
            estimate = highest_rate(service, slo_s, q)
            if estimate is not None:
                found.append(
                    (
                        f"{side}: held/s by the queueing estimate",
                        f"{units.rate(estimate)}/s",
                        basis,
                        f"p99 {units.seconds(play(service, estimate, ANSWERS, 1).latency_s)} there",
                        f"{units.rate(held)}/s by LoadGen, {off(held, estimate)}",
                        "-",
                    )
                )
    seen, played = expected(own, rate, q), play(own, rate, ANSWERS, 2)
    assert seen is not None
    at = f"{name}, {units.rate(rate)}/s on one replica"
    told = "queueing estimate" + (f", {units.seconds(harness.each_s)} an input" if harness else "")

    def trial(line: Line | None, what: str) -> str:
        if line is None:
            return "-"
        if line.trial is None:
            return "INVALID" if what == "verdict" else "-"
        if what == "verdict":
            return f"VALID, {line.trial.queries} answers"
        if what == "batch":
            return f"{line.trial.mean_batch:.2f}" if line.trial.mean_batch else "-"
        p99 = line.trial.latency_s["99"]
        return f"{1e3 * p99:.1f} ms, {off(p99, seen.latency_s)}"

    found += [
        (
            f"{at}: SLO of {SLO_MS} ms",
            "kept",
            option.basis,
            "-",
            trial(ran, "verdict"),
            trial(there, "verdict"),
        ),
        (
            f"{at}: p99",
            f"{1e3 * seen.latency_s:.1f} ms",
            told,
            f"{1e3 * played.latency_s:.1f} ms, {off(played.latency_s, seen.latency_s)}",
            trial(ran, "p99"),
            trial(there, "p99"),
        ),
        (
            f"{at}: busy",
            f"{100 * seen.busy:.0f} %",
            told,
            f"{100 * played.busy:.0f} %",
            "-",
            "-",
        ),
        (
            f"{at}: inputs a run",
            f"{seen.mean_batch:.2f}",
            told,
            "-",
            trial(ran, "batch"),
            trial(there, "batch"),
        ),
    ]
    return found


def main() -> None:
    """Do what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="steps, with commas; default: all")
    parser.add_argument("--quick", action="store_true", help="measure shorter, as clipperf does")
    parser.add_argument("--triton", help="the directory of Triton's backends")
    asked = parser.parse_args()
    folder: Path = asked.folder
    only = {name for name in asked.only.split(",") if name}
    folder.mkdir(parents=True, exist_ok=True)
    quick = ("--quick",) if asked.quick else ()
    measure(folder, only, quick)
    names = [f"{kind}-{tower}" for kind in ("closed", "server") for tower in TOWERS] + ["eval"]
    missing = [name for name in names if not (folder / f"{name}.json").exists()]
    if missing:
        print(f"still to do: {', '.join(missing)}")
        return
    closed, every = read(folder, *names[:2]), read(folder, *names)
    plan = size(every, TARGETS).plans[0]
    rates: dict[str, float] = {o.cell.side: per_replica(o) for o in plan.towers}
    for option in plan.towers:
        run_option(folder, option, rates[option.cell.side], only)
    run_in_triton(folder, plan, rates, only, asked.triton)
    measure_the_rest(folder, only, quick)
    told = folder / "targets.toml"
    told.write_text(TOLD, encoding="utf-8")
    targets = ("--targets", str(told))
    names += [f"torch-{tower}" for tower in TOWERS if (folder / f"torch-{tower}.json").exists()]
    files = [str(folder / f"{name}.json") for name in names]
    report = ("report", *files, *targets, "--format", "html", "--out", str(folder / "report.html"))
    subprocess.run([sys.executable, "-m", "clipperf", *report], check=True)
    subprocess.run([sys.executable, "-m", "clipperf", "size", *files, *targets], check=True)
    heads = ("number", "the sizing says", "rests on", "simulation", "run", "in Triton")
    lines = [heads, ("---",) * len(heads), *compared(folder, closed, every)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
