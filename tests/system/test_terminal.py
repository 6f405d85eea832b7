"""Output into streams that are closed, full, gone or narrow, by real processes."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

ANY = ["models", "--search", "RN50x64"]

PYTHON = """
import sys
from clipperf.errors import StorageError
from clipperf.system import terminal
terminal.take_over()
for number in range(2000):
    terminal.say(f"line {number}")
print("of a library", file=sys.stderr)
how = getattr(terminal, sys.argv[1])
try:
    how("what came of it " * 1000)
    how("more")
except StorageError as exc:
    sys.exit(3)
"""


def run(
    redirect: str, *words: str, code: str | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command, or code, under a shell that redirects its output."""
    start = ["-m", "clipperf"] if code is None else ["-c", code]
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {redirect}', "bash", sys.executable, *start, *words],
        capture_output=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **variables},
    )


def test_nobody_else_prints() -> None:
    """But for the engine that tests have print."""
    places = {
        path.name
        for path in (ROOT / "clipperf").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func)
        in ("print", "sys.stdout.write", "sys.stderr.write", "typer.echo", "typer.secho")
    }
    assert places == {"terminal.py", "simulated.py"}


@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (">&-", 1, b"Bad file descriptor"),
        (">/dev/full", 1, b"No space left on device"),
        ("| head -c 1", 0, None),
        ("2>&-", 0, None),
        ("2>/dev/full", 0, None),
        ("<&- >&- 2>&-", 1, None),
    ],
)
@pytest.mark.parametrize("words", [ANY, [*ANY, "--json"], ["size", "--help"], ["--version"]])
def test_what_cannot_be_printed(
    redirect: str, code: int, said: bytes | None, words: list[str], home: Path
) -> None:
    done = run(redirect, *words)
    assert done.returncode == code
    if said is None:
        assert done.stderr == b""
    else:
        assert done.stderr == b"error: cannot write to standard output: " + said + b"\n"


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "2> >(head -1 >/dev/null)"])
def test_a_broken_standard_error_ends_no_work(redirect: str) -> None:
    done = run(redirect, "show", code=PYTHON)
    assert done.returncode == 0
    assert done.stdout.endswith(b"more\n")


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
def test_work_that_is_done_is_done_though_nobody_can_read_of_it(redirect: str) -> None:
    done = run(redirect, "tell", code=PYTHON)
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if b"cannot write" in line]
    assert len(told) == 1 and told[0].endswith(b"; the work itself is done")
    assert run(redirect, "show", code=PYTHON).returncode == 3


def test_a_closed_output_is_not_what_is_opened_next(tmp_path: Path) -> None:
    """Its number would be the file's, and what a library prints would land in there."""
    code = """
    import os, sys
    from clipperf.system import terminal
    terminal.take_over()
    with open(sys.argv[1], "w") as file:
        print("printed")
        sys.stdout.flush()
        os.write(1, b"by a library")
        os.write(2, b"by a library")
        file.write("written")
    """
    path = tmp_path / "file"
    run("<&- >&- 2>&-", str(path), code="\n".join(line[4:] for line in code.splitlines()))
    assert path.read_text() == "written"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_every_encoding_will_do(encoding: str, home: Path) -> None:
    done = run("", *ANY, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "RN50x64" in done.stdout.decode(encoding)
    done = run("", *ANY, "--json", PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout.decode("utf-8"))[0]["architecture"] == "RN50x64"


def test_an_old_locale_will_do(home: Path) -> None:
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("", *ANY, **old)
    assert (done.returncode, done.stderr) == (0, b"") and b"RN50x64" in done.stdout
    done = run("", "models", "--search", "d\u00fc\x1b]0;title\x07\n", **old)
    assert done.returncode == 2
    (line,) = done.stderr.decode("ascii").splitlines()
    assert line.startswith("error: ") and r"\x1b]0;title\x07" in line


def test_what_is_said_without_standard_error_is_dropped() -> None:
    """As under pythonw, or in a daemon that closed it: standard output is for results."""
    code = (
        "import sys; from clipperf.system import terminal; sys.stderr = None\n"
        "terminal.say('a word'); terminal.show('a result')\n"
    )
    assert run("", code=code).stdout == b"a result\n"
