"""A hundred thousand malformed inputs: tables, archives, plans, targets, results, folders.

    python tools/malformed_inputs.py                            # 100,000 of them, about ten minutes
    python tools/malformed_inputs.py --count 2000 --only tar,state --seed 7

Each input is drawn from a seed and is one of `malformed_kinds`: a file that was mutated as
`mutated_files` does it, or one that hypothesis has put together from what such a file may hold.
It is then used as the command would, in a child process, whose silence is a hang. Of datasets all
items are embedded by a tower of a few numbers, and what is in the shards is held against what other
readers (csv, json, tarfile, zipfile) find in the same damaged file. Prints how many were

- refused: with an error of clipperf's own,
- used: without one; what came of it is right as far as its kind can tell,

and the failures, one line each: foreign (another exception than clipperf's own), wrong (a vector of
another input, one that is not finite, rows that are lost, shards that are not those of an
undisturbed run), outside (a file was opened for writing, renamed or removed elsewhere than below
the input's own folder), crashed (or hung). Exit code 1 where there are any.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import hypothesis
import malformed_kinds
from hypothesis import strategies as st
from malformed_kinds import KINDS, Kind, Wrong
from mutated_files import Found, mutated, run

from clipperf.errors import ClipperfError

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename": 2, "os.link": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1}
"""What changes so many paths, which come first; as many descriptors of folders come last."""

FAILURES = ("foreign", "wrong", "outside", "crashed")
AT_ONCE = 200
"""Inputs that hypothesis makes in one go."""

MEMORY = Path("/dev/shm")
"""Where inputs lie if it is there: what is synced to a disk takes its time."""


class Guard:
    """Notes what is written elsewhere than below a folder, by the audit events of Python."""

    def __init__(self) -> None:
        self.folder = ""
        self.outside: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[object, ...]) -> None:
        if not self.folder:
            return
        if event == "open":
            path, _, flags = given
            places = [(path, -1)] if isinstance(flags, int) and flags & WRITING else []
        elif event in CHANGES:
            count = CHANGES[event]
            above = [fd if isinstance(fd, int) else -1 for fd in given[-count:]]
            places = list(zip(given[:count], above, strict=True))
        else:
            return
        for path, above_fd in places:
            if isinstance(path, str | bytes | os.PathLike):
                within = "." if above_fd < 0 else Path(f"/proc/self/fd/{above_fd}").readlink()
                name = os.path.normpath(Path.cwd() / within / os.fsdecode(path))
                if not name.startswith(self.folder) and name != os.devnull:
                    own = [
                        each for each in traceback.extract_stack() if "clipperf/" in each.filename
                    ]
                    self.outside.append(f"{event} {name} ({own[-1:]})")


def work(subjects: Path, seed: int, places: range, answers: Connection) -> None:
    """A child: try the inputs with these numbers, and tell of each."""
    warnings.simplefilter("ignore")
    malformed_kinds.prepare_child()
    guard = Guard()
    names = [name for name in KINDS if (subjects / name).is_dir()]
    weights = [KINDS[name].weight for name in names]
    queued: dict[str, list[bytes]] = {name: [] for name in names}
    for place in places:
        draw = random.Random(f"{seed}-{place}")
        name = draw.choices(names, weights)[0]
        kind, queue = KINDS[name], queued[name]
        with tempfile.TemporaryDirectory(dir=subjects.parent) as temporary:
            folder = Path(temporary) / "in"
            shutil.copytree(subjects / name, folder)
            files = sorted(path for path in folder.rglob(kind.mutates) if path.is_file())
            file = draw.choice(files)
            if kind.made is not None and draw.random() < 0.5:
                if not queue:
                    queue += drawn(kind.made, AT_ONCE, draw.randrange(2**32))
                data, how = queue.pop(), "hypothesis"
            else:
                data, how = mutated(file.read_bytes(), file.name, draw)
            file.write_bytes(data)
            what = f"{place}: {name}/{file.relative_to(folder)}: {how}"
            answers.send(Found(place, "begun", what))
            guard.folder, guard.outside = temporary, []
            outcome, said = _tried(kind, folder, file)
            if guard.outside:
                outcome, said = "outside", "; ".join(guard.outside[:3])
            guard.folder = ""
        if outcome in FAILURES:
            said += f" | {data[:600]!r}"
        answers.send(Found(place, outcome, f"{what}: {said:.900}"))


def _tried(kind: Kind, folder: Path, file: Path) -> tuple[str, str]:
    try:
        kind.use(folder, file)
    except ClipperfError as exc:
        return "refused", str(exc)
    except Wrong as exc:
        return "wrong", str(exc)
    except Exception as exc:  # noqa: BLE001 - this is what is looked for
        trace = traceback.extract_tb(exc.__traceback__)[-1]
        return "foreign", f"{type(exc).__name__}: {exc!s:.150} ({trace})"
    return "used", ""


def drawn(made: st.SearchStrategy[bytes], count: int, seed: int) -> list[bytes]:
    """So many files that hypothesis makes, or fewer where it finds no more."""
    found: list[bytes] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(made)
    def note(data: bytes) -> None:
        found.append(data)

    note()
    return found


def main() -> int:
    """Mutate, use, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--only", default="", help="kinds, with commas")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name] or list(KINDS)
    started = time.monotonic()
    above = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="clipperf-malformed-", dir=above) as root:
        subjects = Path(root) / "subjects"
        for name in chosen:
            KINDS[name].write(subjects / name)
        found = run(subjects, options.count, options.seed, options.first, work)
    seconds = time.monotonic() - started
    counts = Counter((_kind(one), one.outcome) for one in found)
    for one in found:
        if one.outcome in FAILURES:
            print(f"{one.outcome}: {one.what}")
    outcomes = ("refused", "used", *FAILURES)
    print(f"{'':>12}" + "".join(f"{outcome:>10}" for outcome in outcomes))
    for name in chosen:
        print(f"{name:>12}" + "".join(f"{counts[name, outcome]:>10}" for outcome in outcomes))
    sums = Counter(one.outcome for one in found)
    print(f"{'all':>12}" + "".join(f"{sums[outcome]:>10}" for outcome in outcomes))
    failures = sum(sums[outcome] for outcome in FAILURES)
    print(f"{len(found)} inputs in {seconds:.0f} s, {failures} failures, seed {options.seed}")
    return 1 if failures else 0


def _kind(found: Found) -> str:
    return found.what.split(": ")[1].partition("/")[0] if ": " in found.what else ""


if __name__ == "__main__":
    sys.exit(main())
