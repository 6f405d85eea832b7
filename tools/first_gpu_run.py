"""The first ten minutes on a GPU: what runs there, what is right, what is fast, what failed.

    python tools/first_gpu_run.py                        # writes results/first-run-GPU.json and .md
    python tools/first_gpu_run.py --minutes 5            # ends by then, whatever happens
    python tools/first_gpu_run.py --only parity gpu-tests
    python tools/first_gpu_run.py --device cuda:1        # of several GPUs the second on the bus
    python tools/first_gpu_run.py --device cpu           # the same on CPU runtimes, without a GPU
    python tools/first_gpu_run.py --rehearse             # every stage to its end, within minutes

Stages run in the order of their worth, one after the other, each in a process of its own with a
limit of its own (`first_gpu_stages`): TensorRT times its kernels while it builds an engine, so that
nothing may run beside a build. They see the one GPU that is described, whichever CUDA calls first.
The result is on disk after every stage; the same command goes on after the last stage that ended
well, and tries the others again. `tools/verified_on.py` puts what was shown into the README. A
rehearsal takes the bundled sample on CPU runtimes and on a simulated GPU, and a store of its own
(`first_gpu_rehearsal`); none of its figures means anything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from first_gpu_base import REHEARSAL, SKIPPED, Stage
from first_gpu_page import page
from first_gpu_rehearsal import rehearse
from first_gpu_stages import STAGES

from clipperf.errors import ArtifactError, ClipperfError
from clipperf.system import env, gpus
from clipperf.system.family import end_family
from clipperf.system.files import read_json, utc_now, write_json, write_text
from clipperf.version import __version__

ROOT = Path(__file__).parents[1]
WRITTEN = ("results", "README.md")
"""What runs and `tools/verified_on.py` write in the checkout."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LAST_WORDS = 1200
"""So many characters of what a failed stage printed last are kept."""

Record = dict[str, Any]

PATIENCE = 3
"""So many times a stage's limit is that of its rehearsal, on whatever there is for CPUs."""

REHEARSED_AT_ONCE = 3
"""So many stages of a rehearsal run beside each other, where no figure counts."""

STOPPED = threading.Event()
GOING: set[int] = set()
"""The process groups of the stages that run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; 1 where one failed or was too slow, else 0: what was not reached says so."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="default: results, of a rehearsal build/rehearsal")
    parser.add_argument(
        "--device", type=device, default="cuda", help="cuda, cuda:1, cuda:UUID, cpu"
    )
    parser.add_argument("--rehearse", action="store_true", help="small models and no GPU")
    parser.add_argument("--minutes", type=minutes, default=10.0, help="for all of it; default: 10")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in STAGES], default=[])
    parser.add_argument("--again", action="store_true", help="repeat what ended well, too")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    ends_at = time.monotonic() + 60 * options.minutes
    os.environ.pop(REHEARSAL, None)
    if options.rehearse:  # stages read it when they are imported
        os.environ[REHEARSAL], options.device = "1", "cpu"
    try:  # before anything describes it: the stages see this one alone
        options.device = gpus.pin(options.device)
    except ClipperfError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    gpu = env.gpu()
    if options.device == "cuda" and gpu is None:
        print(
            "no NVIDIA GPU or driver found: run where nvidia-smi works, with --device cpu on "
            "CPU runtimes, or with --rehearse",
            file=sys.stderr,
        )
        return 2
    machine = gpu.name if gpu is not None and options.device == "cuda" else "cpu"
    if options.rehearse:
        machine = "rehearsal"
    out = options.out or ROOT / ("build/rehearsal" if options.rehearse else "results")
    if options.rehearse:  # what a simulated TensorRT builds is for nobody else
        os.environ["CLIPPERF_HOME"] = str((out / "store").absolute())
    name = "first-run-" + re.sub(r"[^A-Za-z0-9]+", "-", machine).strip("-").lower()
    file = out / f"{name}.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        run = begun(file, options.device, machine, gpu)
        keep(file, run)
    except (ClipperfError, OSError) as exc:
        print(f"error: {exc}; name another folder with --out", file=sys.stderr)
        return 2
    wanted = [stage for stage in STAGES if not options.only or stage.name in options.only]
    wanted = [stage for stage in wanted if options.again or not ended_well(run, stage.name)]
    with ThreadPoolExecutor(REHEARSED_AT_ONCE if options.rehearse else 1) as pool:
        rehearsal = out if options.rehearse else None
        going = {
            pool.submit(attempt, stage, options.device, ends_at, rehearsal): stage
            for stage in wanted
        }
        for done in as_completed(going):
            run["stages"][going[done].name] = done.result()
            keep(file, run)
    print(file.with_suffix(".md"))
    return int(any(r["status"] in ("failed", "too slow") for r in run["stages"].values()))


def device(text: str) -> str:
    """ "cpu", or a GPU as `gpus.pin` takes it."""
    if text != "cpu" and text.partition(":")[0] != gpus.CUDA:
        raise argparse.ArgumentTypeError("give cuda, cuda:1, cuda:UUID or cpu")
    return text


def minutes(text: str) -> float:
    """A time that ends."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError("give minutes, 0 or more")
    return value


def stop(number: int, frame: object) -> None:
    """End what runs with all that it has started; what ended before is on disk."""
    STOPPED.set()
    for group in tuple(GOING):
        end_all(group)
    raise SystemExit(128 + number)


def end_all(pid: int) -> None:
    """Kill a stage that runs, with what it has started in groups of its own."""
    end_family(pid)
    end(pid)


def end(group: int) -> None:
    """Kill a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def ended_well(run: Record, name: str) -> bool:
    """Whether a stage need not run again; says so."""
    kept = run["stages"].get(name)
    if kept is None or kept["status"] not in ("ok", "skipped"):
        return False
    print(f"{name}: {kept['status']} before", flush=True)
    return True


def attempt(stage: Stage, device: str, ends_at: float, rehearsal: Path | None) -> Record:
    """Run a stage in what is left of the time; `rehearsal` is the folder of one."""
    if STOPPED.is_set():
        return ended("not reached", "stopped")
    left_s = ends_at - time.monotonic()
    print(f"{stage.name}: {stage.title}", flush=True)
    if left_s < stage.least_s:
        record = ended("not reached", f"{max(0, left_s):.0f} s were left")
    else:
        own_s = stage.limit_s * (1 if rehearsal is None else PATIENCE)
        limit_s = min(own_s, left_s)
        record = (
            run_stage(stage, device, limit_s)
            if rehearsal is None
            else rehearse(stage, limit_s, run_stage, rehearsal / "simulated-gpu")
        )
        if record["status"] == "too slow" and left_s < own_s:  # it was given less than it may take
            record |= {"status": "not reached", "reason": f"ended after {left_s:.0f} s, all left"}
    print(f"{stage.name}: {record['status']}, {record['seconds']} s {record['reason']}", flush=True)
    return record


def keep(file: Path, run: Record) -> None:
    """Write what is known, in the order of the stages."""
    order = [stage.name for stage in STAGES]
    run["stages"] = dict(sorted(run["stages"].items(), key=lambda item: order.index(item[0])))
    write_json(file, run)
    write_text(file.with_suffix(".md"), page(run))


def begun(file: Path, device: str, machine: str, gpu: env.Gpu | None) -> Record:
    """The record to go on with: the file's where code, machine and versions are the same.

    One of another code or machine is put aside under the day it was begun. What was changed since
    its commit says nothing of what it is, so that it is never gone on with.
    """
    here = {
        "device": device,
        "machine": machine,
        "driver": gpu.driver if gpu is not None else None,
        "compute_capability": list(gpu.compute_capability) if gpu is not None else None,
        "gpu_uuid": gpu.uuid if gpu is not None else None,
        "cores": env.available_cores(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": env.installed_versions(),
        "clipperf": __version__,
        "commit": commit(),
    }
    if file.exists():
        before: Record = read_json(file, large=True)
        if not isinstance(before, dict) or not {"started", "stages"} <= before.keys():
            raise ArtifactError(f"{file} is no record of a first run")
        if before.get("environment") == here and not str(here["commit"]).endswith("+"):
            return before
        aside = file.with_name(f"earlier-{file.stem}-{before['started'].replace(':', '')}.json")
        file.replace(aside)
        write_text(aside.with_suffix(".md"), page(before))
    return {"environment": here, "started": utc_now(), "stages": {}}


def commit() -> str | None:
    """The revision of the code, "+" behind it where files differ; None outside a checkout.

    What runs write, which is tracked, is none of the code: else none could be gone on with.
    """
    git = ["git", "-C", str(ROOT)]
    words = [*git, "describe", "--always", "--abbrev=12"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout.strip():
        return None
    words = [*git, "diff", "--quiet", "HEAD", "--", ".", *(f":!{name}" for name in WRITTEN)]
    differs = subprocess.run(words, capture_output=True).returncode != 0
    return done.stdout.strip() + "+" * differs


def run_stage(
    stage: Stage, device: str, limit_s: float, more: Mapping[str, str] | None = None
) -> Record:
    """Run one stage as a process group that is ended at its limit; never raises.

    `more` is what its environment has besides.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer, log = Path(folder) / "answer.json", Path(folder) / "log"
        words = [sys.executable, str(Path(__file__).with_name("first_gpu_stages.py"))]
        words += [stage.name, "--device", device, "--answer", str(answer)]
        with log.open("wb") as output:
            child = subprocess.Popen(
                words, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
                env={**os.environ, **(more or {})},
            )  # fmt: skip
            GOING.add(child.pid)
            code: int | None = None
            try:
                code = child.wait(0 if STOPPED.is_set() else limit_s)
            except subprocess.TimeoutExpired:
                pass
            finally:  # a stage's own children must not run on beside the next one
                (end_all if code is None else end)(child.pid)
                child.wait()
                GOING.discard(child.pid)
        said = COLOURS.sub("", log.read_text(errors="replace")).strip()[-LAST_WORDS:]
        data: Record = json.loads(answer.read_text()) if answer.exists() else {}
    seconds = round(time.monotonic() - start, 1)
    if code is None:
        return {**ended("too slow", f"ended after {limit_s:.0f} s"), "seconds": seconds} | {
            "said": said,
            "data": data,
        }
    status = {0: "ok", SKIPPED: "skipped"}.get(code, "failed")
    reason = str(data.get("reason", "" if code == 0 else how_it_ended(code, said)))
    shown = {} if status == "ok" else {"said": said}
    return {**ended(status, reason), "seconds": seconds, "data": data, **shown}


def how_it_ended(code: int, said: str) -> str:
    """Why a stage ended that gave no reason: its exit status or signal, and its last line."""
    how = f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    return ": ".join([how, *said.splitlines()[-1:]])


def ended(status: str, reason: str) -> Record:
    """The least that is known of a stage."""
    return {"status": status, "reason": reason, "seconds": 0.0, "at": utc_now()}


if __name__ == "__main__":
    sys.exit(main())
