"""Let single system calls fail in commands; exits with 1 where something is lost or unclear.

Usage: python tools/failing_calls.py [--cases 30] [--folder DIR]

strace makes the n-th rename, exchange, link, mkdir, fsync or flock of every process fail, a limit
of the file size makes writes fail, and a module that Python imports at its start the n-th opening
of a file for writing below the place. A command must succeed all the same or end with one line
that begins with "error: "; what stood before stands, and the same command succeeds afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from breaking import MODEL, Place, error_lines

COMMANDS = {
    "preprocess": f"export {MODEL} --tower image --preprocess draft --quiet --out OUT",
    "export": f"export {MODEL} --tower text --quiet --out OUT",
    "profile": f"profile {MODEL} --tower text --runtime onnx --batch 1 --quick --quiet --json JSON",
}
SHIM = """
import builtins, io, os
_root, _when, _error = os.environ["FAILING_ROOT"], int(os.environ["FAILING_WHEN"]), \\
    int(os.environ["FAILING_ERROR"])
_count, _open, _os_open = [0], io.open, os.open
def _check(path):
    if str(path).startswith(_root):
        _count[0] += 1
        if _count[0] == _when:
            raise OSError(_error, os.strerror(_error), str(path))
def _opened(file, mode="r", *arguments, **options):
    if isinstance(file, (str, os.PathLike)) and set(mode) & set("wax+"):
        _check(file)
    return _open(file, mode, *arguments, **options)
def _os_opened(path, flags, *arguments, **options):
    if flags & (os.O_WRONLY | os.O_RDWR):
        _check(path)
    return _os_open(path, flags, *arguments, **options)
builtins.open = io.open = _opened
os.open = _os_opened
"""


@dataclass(frozen=True)
class Case:
    """A command and what fails in it: a system call, "open", or "size" of files above `when`."""

    command: str
    call: str
    error: str
    when: int

    def __str__(self) -> str:
        """What a table says of it."""
        if self.call == "size":
            return f"{self.command}: files of more than {self.when} bytes"
        return f"{self.command}: {self.call} {self.when} fails with {self.error}"


def cases() -> list[Case]:
    """All cases, those that take longest last."""
    quick = [
        *(Case("preprocess", "flock", "EIO", n) for n in (1, 2)),
        *(Case("preprocess", "renameat2", e, 1) for e in ("EIO", "EINVAL", "EACCES")),
        *(Case("preprocess", "rename", e, n) for e in ("ENOSPC", "EROFS") for n in (1, 2)),
        *(Case("preprocess", "fsync", e, n) for e in ("EIO", "ENOSPC") for n in (1, 3)),
        *(Case("preprocess", "link", "EACCES", n) for n in (1, 3)),
        *(Case("preprocess", "mkdir", "ENOSPC", n) for n in (1, 2)),
        *(Case("preprocess", "open", e, n) for e in ("EACCES", "ENOSPC") for n in (1, 2, 4)),
        *(Case("preprocess", "size", "EFBIG", n) for n in (0, 1000)),
    ]
    longer = [
        *(Case("profile", "fsync", "ENOSPC", n) for n in (1, 4)),
        Case("profile", "open", "EROFS", 1),
        *(Case("export", "size", "EFBIG", n) for n in (0, 2**12, 2**20, 2**23)),
        *(Case("export", "rename", "EROFS", n) for n in (1, 2, 3)),
        *(Case("export", "mkdir", "EACCES", n) for n in (1, 3)),
        *(Case("export", "open", "ENOSPC", n) for n in (1, 3, 5)),
        *(Case("export", "fsync", "EIO", n) for n in (1, 5)),
    ]
    both = [case for pair in zip(quick, longer, strict=False) for case in pair]
    return both + quick[len(longer) :] + longer[len(quick) :]


def main() -> int:
    """Run the cases; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=len(cases()))
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        raise SystemExit("strace is not installed")
    with contextlib.ExitStack() as held:
        folder = options.folder or Path(held.enter_context(tempfile.TemporaryDirectory()))
        template = Place(folder / "template")
        if not template.home.exists():
            template.build()
        (folder / "shim").mkdir(exist_ok=True)
        (folder / "shim" / "sitecustomize.py").write_text(SHIM)
        return fail_all(Place(folder / "place", template.root), cases()[: options.cases])


def fail_all(place: Place, chosen: list[Case]) -> int:
    """Run cases; prints what came of each."""
    counts: Counter[str] = Counter()
    bad = 0
    for case in chosen:
        place.problems = []
        place.reset()
        failed = fail(place, case)
        place.look("after the failure")
        again = place.run(COMMANDS[case.command])
        if again.returncode:
            place.problems.append(f"the next run: exit {again.returncode}: {again.stderr[-300:]}")
        place.look("after the next run")
        place.look_for_leftovers()
        counts["ended with an error line" if failed else "succeeded all the same"] += 1
        bad += len(place.problems)
        print("\n".join(f"{case}: {said}" for said in place.problems or ["stands"]), flush=True)
    for what, count in sorted(counts.items()):
        print(f"{count:5d}  {what}")
    print(f"{len(chosen)} failing calls, {bad} problems")
    return 1 if bad else 0


def fail(place: Place, case: Case) -> bool:
    """Run a case's command; whether it failed, as it may, in its own way."""
    environment, before = place.environment, []
    if case.call == "open":
        shim = str(place.root.parent / "shim")
        path = [shim, *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "FAILING_ROOT": str(place.root),
            "FAILING_WHEN": str(case.when),
            "FAILING_ERROR": str(getattr(errno, case.error)),
        }
    elif case.call == "size":
        before = ["prlimit", f"--fsize={case.when}"]
    else:
        inject = f"inject={case.call}:error={case.error}:when={case.when}"
        before = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", os.devnull, "-e", inject]
    done = subprocess.run(
        [*before, *place.command(COMMANDS[case.command])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode:
        place.problems += error_lines(done.stderr)
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
