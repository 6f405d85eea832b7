"""Whether the tests notice small changes to the code: a mutation run over the pure modules.

    python tools/mutation.py                       # 400 mutants, chosen by seed 0
    python tools/mutation.py --modules stats ranks # of those alone that these modules have
    python tools/mutation.py --seed 1 --workers 2

A mutant is the package with one small change (see `mutation_operators`), in a copy of the
repository, against the tests beside the changed module (see `mutation_plan`). It is noticed where
one of them fails or they take many times as long as usual. Mutants are spread over the modules in
proportion to their lines; which ones of a module is drawn by hash, so that a change elsewhere in
the code leaves the others as they were. Exits with 1 under 90 %. About nine minutes of two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutation_operators import Mutant, mutants_of, mutated
from mutation_plan import EQUIVALENT, SUBJECTS, Equivalent, Subject

ROOT = Path(__file__).parents[1]
COPIED = ("clipperf", "tests", "tools", "pyproject.toml")
WANTED = 0.90
"""The share of mutants that must be noticed."""

PYTEST = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout"),
    *("-m", "not slow and not timing"),
)
PATIENCE = 10
LEAST_TIMEOUT_S = 30.0
"""A mutant gets `PATIENCE` times the tests' usual time, and at least this."""


@dataclass(frozen=True)
class Chosen:
    """The mutants of one module that are tried, and how many equivalent ones were passed over."""

    path: str
    tests: tuple[tuple[str, ...], ...]
    mutants: tuple[Mutant, ...]
    equivalent: int


class Workplace:
    """A copy of the repository in which one mutant at a time is tried."""

    def __init__(self, root: Path, folder: Path, names: Sequence[str] = COPIED) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in names:
            if (root / name).is_dir():
                shutil.copytree(root / name, folder / name)
            else:
                shutil.copy2(root / name, folder / name)
        self._tried = 0

    def passes(self, tests: Sequence[str], timeout_s: float | None = None) -> bool:
        """Whether the tests pass here within the time."""
        paths = f"{self.folder}{os.pathsep}{self.folder / 'tests'}"
        own = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # most of the time of a fast test
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", *PYTEST, *tests],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env={**os.environ, **own},
            start_new_session=True,
        ) as process:
            try:
                return process.wait(timeout_s) == 0
            except subprocess.TimeoutExpired:
                return False
            finally:
                # What a test has left running would disturb those that come next.
                kill_group(process.pid)

    def notices(self, mutant: Mutant, stages: Iterable[tuple[Sequence[str], float]]) -> bool:
        """Whether one stage of tests, each with its time, fails with the mutant in its place."""
        path = self.folder / mutant.path
        source, usual = path.read_text(encoding="utf-8"), path.stat()
        self._tried += 1
        try:
            path.write_text(mutated(source, mutant.number), encoding="utf-8")
            # Another second than any before, so that no cached bytecode is taken for it.
            os.utime(path, (usual.st_atime, usual.st_mtime + self._tried))
            return any(not self.passes(tests, seconds) for tests, seconds in stages)
        finally:
            path.write_text(source, encoding="utf-8")
            os.utime(path, ns=(usual.st_atime_ns, usual.st_mtime_ns))


def kill_group(group: int) -> None:
    """End what is left of a group of processes."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


# --- which mutants -------------------------------------------------------------------------


def is_equivalent(mutant: Mutant, known: Sequence[Equivalent]) -> bool:
    """Whether a mutant is named as one that changes nothing."""
    return any(matches(each, mutant) for each in known)


def matches(named: Equivalent, mutant: Mutant) -> bool:
    """Whether this entry of the list speaks of this mutant."""
    about = (named.path, named.text, named.operator) == (mutant.path, mutant.text, mutant.operator)
    return about and named.after in mutant.after


def rank(mutant: Mutant, seed: int) -> str:
    """The place of a mutant among those of its module: drawn by the seed, whatever its line."""
    what = (seed, mutant.path, mutant.where, mutant.operator, mutant.before, mutant.after)
    return hashlib.sha256(repr((*what, mutant.occurrence)).encode()).hexdigest()


def shares(lines: Mapping[str, int], count: int) -> dict[str, int]:
    """So many mutants spread over modules in proportion to their lines, by largest remainders."""
    total = sum(lines.values())
    exact = {path: count * n / total for path, n in lines.items()}
    found = {path: int(share) for path, share in exact.items()}
    by_rest = sorted(lines, key=lambda path: (found[path] - exact[path], path))
    for path in by_rest[: count - sum(found.values())]:
        found[path] += 1
    return found


def tests_beside(root: Path, subjects: Sequence[Subject]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """The stages of tests of every module."""
    return {
        path.relative_to(root).as_posix(): tuple(filter(None, (subject.near, subject.far)))
        for subject in subjects
        for pattern in subject.paths
        for path in sorted(root.glob(pattern))
    }


def choose(
    root: Path,
    subjects: Sequence[Subject],
    known: Sequence[Equivalent],
    count: int,
    seed: int,
) -> list[Chosen]:
    """The mutants to try, module by module.

    Raises:
        SystemExit: an entry of the list of equivalent mutants speaks of none.
    """
    tests = tests_beside(root, subjects)
    sources = {path: (root / path).read_text(encoding="utf-8") for path in tests}
    mutants = {path: mutants_of(path, source) for path, source in sources.items()}
    sources = {path: source for path, source in sources.items() if mutants[path]}
    for each in known:
        if not any(matches(each, mutant) for mutant in mutants.get(each.path, [])):
            sys.exit(f"no mutant is what the list of equivalent ones says: {each}")
    found = []
    lines = {path: len(source.splitlines()) for path, source in sources.items()}
    for path, share in shares(lines, count).items():
        drawn = sorted(mutants[path], key=lambda mutant: rank(mutant, seed))
        wanted = [mutant for mutant in drawn if not is_equivalent(mutant, known)][:share]
        passed = drawn.index(wanted[-1]) + 1 - len(wanted) if wanted else 0
        found.append(Chosen(path, tests[path], tuple(wanted), passed))
    return found


# --- the run -------------------------------------------------------------------------------


def usual_times(place: Workplace, chosen: Sequence[Chosen]) -> dict[tuple[str, ...], float]:
    """Seconds of each stage of tests without any mutant.

    Raises:
        SystemExit: they fail.
    """
    seconds = {}
    for stage in dict.fromkeys(stage for each in chosen for stage in each.tests):
        start = time.perf_counter()
        if not place.passes(stage):
            sys.exit(f"fails without any mutant: pytest {' '.join(stage)}")
        seconds[stage] = time.perf_counter() - start
    return seconds


def survivors(
    root: Path, chosen: Sequence[Chosen], workers: int, names: Sequence[str] = COPIED
) -> set[Mutant]:
    """The mutants that no test noticed."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        places = [Workplace(root, Path(folder) / str(i), names) for i in range(workers)]
        usual = usual_times(places[0], chosen)
        limits = {stage: max(LEAST_TIMEOUT_S, PATIENCE * usual[stage]) for stage in usual}
        free: queue.SimpleQueue[Workplace] = queue.SimpleQueue()
        for place in places:
            free.put(place)

        def survives(mutant: Mutant, stages: tuple[tuple[str, ...], ...]) -> bool:
            place = free.get()
            try:
                if place.notices(mutant, ((stage, limits[stage]) for stage in stages)):
                    return False
                print(mutant, file=sys.stderr, flush=True)
                return True
            finally:
                free.put(place)

        with ThreadPoolExecutor(workers) as pool:
            tasks = {
                mutant: pool.submit(survives, mutant, each.tests)
                for each in chosen
                for mutant in each.mutants
            }
            return {mutant for mutant, task in tasks.items() if task.result()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print what was found, and return 1 where too little was noticed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=400, help="mutants over all modules")
    parser.add_argument("--modules", nargs="*", help="those alone whose path holds one of these")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args(arguments)
    start = time.perf_counter()
    chosen = choose(ROOT, SUBJECTS, EQUIVALENT, asked.count, asked.seed)
    if asked.modules:
        chosen = [each for each in chosen if any(word in each.path for word in asked.modules)]
    survived = survivors(ROOT, chosen, asked.workers)
    for each in chosen:
        left = [mutant for mutant in each.mutants if mutant in survived]
        noticed = len(each.mutants) - len(left)
        print(f"{each.path}: {len(each.mutants)} mutants, {noticed} noticed", end="")
        print(f", {each.equivalent} equivalent passed over")
        for mutant in left:
            print(f"    {mutant}")
    total = sum(len(each.mutants) for each in chosen)
    noticed = total - len(survived)
    print(
        f"{noticed} of {total} noticed ({noticed / total:.1%}), "
        f"{sum(each.equivalent for each in chosen)} equivalent passed over, seed {asked.seed}, "
        f"{time.perf_counter() - start:.0f} s"
    )
    return int(noticed < WANTED * total)


if __name__ == "__main__":
    sys.exit(main())
