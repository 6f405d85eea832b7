"""What hostile images, texts and datasets do: a table of outcomes, seconds and memory.

    python tools/hostile_inputs.py                        # all of them, about two minutes
    python tools/hostile_inputs.py --only tall,entities   # those whose names begin so
    python tools/hostile_inputs.py --artifact FOLDER      # another model than the bundled sample

Every input is given to a process of its own, with a limit of address space and of time. Ends with
1 if one crashed, hung, took more memory than its bound, or raised an error that is not clipperf's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hostile_samples import CASES, Case

ADDRESS_SPACE_MIB = 6144
"""What a child may map; ONNX Runtime and its threads map a good GiB of it."""

TIMEOUT_S = 60

CHILD = Path(__file__).with_name("hostile_child.py")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one input. `problem` is empty where all is well."""

    name: str
    said: str
    seconds: float
    peak_mib: int | None
    problem: str = ""


def attempt(case: Case, folder: Path, artifact: Path) -> Outcome:
    """Make the input in an empty folder, and give it to a child."""
    folder.mkdir()
    given = case.make(folder)
    job = {
        "kind": case.kind,
        "given": given if isinstance(given, str) else str(given),
        "artifact": str(artifact),
        "address_space_bytes": ADDRESS_SPACE_MIB << 20,
    }
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(json.dumps(job), timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return Outcome(case.name, "", time.monotonic() - started, None, f"hung {TIMEOUT_S} s")
    seconds = time.monotonic() - started
    try:
        told = json.loads(out)
    except ValueError:
        last = (err.strip().splitlines() or [""])[-1]
        return Outcome(case.name, last, seconds, None, f"died with {child.returncode}")
    return Outcome(case.name, told["said"], told["seconds"], told["peak_mib"], _problem(case, told))


def _problem(case: Case, told: dict) -> str:
    if told["foreign"]:
        return "an error that is not clipperf's"
    if told["peak_mib"] > case.peak_mib:
        return f"more than {case.peak_mib} MiB"
    if len(told["said"]) > 3000:
        return f"an error of {len(told['said'])} characters"
    return "" if told["said"].startswith(case.outcome) else f"expected: {case.outcome}"


def run(cases: Sequence[Case], artifact: Path) -> list[Outcome]:
    """Try the inputs one after the other, and print a row for each."""
    print(f"{'input':28} {'outcome':80} {'s':>6} {'MiB':>6}")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="clipperf-hostile-") as scratch:
        for i, case in enumerate(cases):
            outcome = attempt(case, Path(scratch) / str(i), artifact)
            said = outcome.said.replace(scratch, "").encode("ascii", "backslashreplace").decode()
            peak = "-" if outcome.peak_mib is None else str(outcome.peak_mib)
            print(f"{case.name:28} {said[:80]:80} {outcome.seconds:6.2f} {peak:>6}", flush=True)
            if outcome.problem:
                print(f"{'':28} PROBLEM: {outcome.problem}", flush=True)
            outcomes.append(outcome)
    return outcomes


def main() -> int:
    """Run the inputs that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="beginnings of names, with commas")
    parser.add_argument("--artifact", type=Path, help="an exported model with both towers")
    args = parser.parse_args()
    chosen = [c for c in CASES if c.name.startswith(tuple(args.only.split(",")))]
    outcomes = run(chosen, args.artifact or exported_sample())
    bad = [outcome for outcome in outcomes if outcome.problem]
    peak = max((outcome.peak_mib or 0 for outcome in outcomes), default=0)
    slowest = max((outcome.seconds for outcome in outcomes), default=0.0)
    print(
        f"\n{len(outcomes)} inputs, {len(bad)} problems, at most {peak} MiB and {slowest:.1f} s; "
        f"the processes' own share is that of the rows named plain"
    )
    return 1 if bad or not outcomes else 0


def exported_sample() -> Path:
    """The bundled sample as ONNX, from the store."""
    from clipperf.export.make import make
    from clipperf.models import zoo
    from clipperf.nouns.variant import SIDES, Variant

    return make(zoo.resolve("clipperf-sample"), SIDES, Variant("onnx")).folder


if __name__ == "__main__":
    sys.exit(main())
