"""The one protocol for child processes, with real ones: what they say, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from clipperf import errors
from clipperf.bench import passes
from clipperf.errors import ChildError, ClipperfError, EngineError, StorageError, UnsupportedError
from clipperf.system.child import Child, child_environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

TOY = """
print("printed before the protocol begins", end="")
import errno, os, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path
from clipperf import errors
from clipperf.system import files
from clipperf.system.protocol import serve

@dataclass(frozen=True)
class Point:
    x: int
    y: tuple[int, ...]

class Odd(errors.UnsupportedError):
    pass

def echo(fields, tell):
    print("a library prints")
    os.write(1, b"so does C code\\n")
    return {"echo": fields, "read": sys.stdin.read()}

def steps(fields, tell):
    for n in range(fields["n"]):
        tell(Point(n, (n, n)))
    return Point(fields["n"], ())

def fail(fields, tell):
    print("on the way", file=sys.stderr)
    if fields["kind"] == "Odd":
        raise Odd("not here")
    if fields["kind"] == "long":
        raise RuntimeError("somewhere in the library\\nand on\\nthe reason at last")
    raise ValueError("no sense")

def known(fields, tell):
    raise getattr(errors, fields["kind"])("not here")

def full(fields, tell):
    with files.translated(Path(fields["folder"])):
        raise OSError(errno.ENOSPC, "no space left")

def say_and_hang(fields, tell):
    tell("here")
    time.sleep(60)

def start_helper(fields, tell):
    return {"pid": subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid}

def fork_helper(fields, tell):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return {"pid": pid}

def crash(fields, tell):
    print("about to crash", file=sys.stderr)
    import ctypes
    ctypes.string_at(0)

def chat(fields, tell):
    print("UserWarning: this has nothing to do with the end", file=sys.stderr)
    os.kill(os.getpid(), fields["number"])
    time.sleep(60)

def note(fields, tell):
    print(f"line {fields['n']}", file=sys.stderr, flush=True)

def leave(fields, tell):
    print("I have to go", file=sys.stderr)
    os._exit(3)

def variables(fields, tell):
    return dict(os.environ)

def modules(fields, tell):
    return {name: getattr(sys.modules.get(name), "__file__", None) for name in fields["names"]}

def slow(fields, tell):
    time.sleep(fields["s"])
    Path(fields["file"]).write_text("done")

def greeting():
    if "no-greeting" in sys.argv:
        raise errors.MeasurementError("no such meter")
    return {"args": sys.argv[1:], "cwd": str(Path.cwd())}

def at_end():
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text("closed")

if __name__ == "__main__":
    names = (
        "echo steps fail known full say_and_hang start_helper fork_helper crash chat leave "
        "variables modules slow note"
    )
    sys.exit(
        serve(
            {name: globals()[name] for name in names.split()},
            greeting=greeting,
            at_end=at_end,
            goes_on="goes-on" in sys.argv,
        )
    )
"""


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "toy_child.py").write_text(TOY)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    yield


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


# --- what is said --------------------------------------------------------------------------


def test_a_child_greets_answers_and_closes_what_it_holds(tmp_path: Path) -> None:
    left = tmp_path / "left"
    with Child("toy_child", "one", str(left)) as child:
        assert child.greet() == {"args": ["one", str(left)], "cwd": str(Path.cwd())}
        assert child.greet()["args"][0] == "one"
        # Neither prints nor a read of standard input disturb the protocol.
        fields = {"path": "x", "text": "ä\n", "values": [1, 2.5, None]}
        for _ in range(2):
            assert child.ask("echo", **fields) == {"echo": fields, "read": ""}
        assert not left.exists()
    assert left.read_text() == "closed"
    assert gone(child.pid)
    child.end()


def test_progress_comes_in_order_and_records_cross() -> None:
    told: list[object] = []
    with Child("toy_child") as child:
        assert child.ask("steps", told.append, n=3) == {"x": 3, "y": []}
    assert told == [{"x": n, "y": [n, n]} for n in range(3)]


def test_a_message_is_sent_now_and_answered_later(tmp_path: Path) -> None:
    with Child("toy_child") as child:
        child.send("steps", n=1)
        child.send("steps", n=2)
        assert [child.answer()["x"], child.answer()["x"]] == [1, 2]
        child.send("steps", n=7)
        assert child.ask("steps", n=8)["x"] == 8, "answers still due are dropped"
        file = tmp_path / "file"
        child.send("slow", s=30, file=str(file))
        start = time.monotonic()
    assert time.monotonic() - start < 10, "nobody waits for this answer"
    assert gone(child.pid) and not file.exists()


def test_a_greeting_may_fail() -> None:
    with (
        Child("toy_child", "no-greeting") as child,
        pytest.raises(errors.MeasurementError, match=r"^no such meter$"),
    ):
        child.greet()


def own_errors() -> list[str]:
    found, kinds = [], [ClipperfError]
    while kinds:
        kind = kinds.pop()
        if kind.__module__ == errors.__name__:
            found.append(kind.__name__)
            kinds += kind.__subclasses__()
    return found


def test_errors_keep_their_class() -> None:
    assert {"UsageError", "ParityError", "UnsupportedError"} <= set(own_errors())
    with Child("toy_child", "goes-on") as child:
        for kind in own_errors():
            with pytest.raises(ClipperfError, match=r"^not here$") as raised:
                child.ask("known", kind=kind)
            assert type(raised.value).__name__ == kind
        # A class that the parent does not know crosses as the nearest one that it knows.
        with pytest.raises(UnsupportedError, match="not here") as raised:
            child.ask("fail", kind="Odd")
        assert type(raised.value) is UnsupportedError
        assert child.ask("steps", n=1)["x"] == 1
        with pytest.raises(StorageError, match=r"disk full while writing .*target"):
            child.ask("full", folder="target")
        assert child.ask("steps", n=1)["x"] == 1


@pytest.mark.parametrize("goes_on", [True, False])
def test_other_errors_end_the_child(goes_on: bool) -> None:
    with Child("toy_child", *(["goes-on"] if goes_on else [])) as child:
        with pytest.raises(ChildError, match=r"^ValueError: no sense$") as raised:
            child.ask("fail", kind="none")
        assert raised.value.code == 1
        assert re.search(r"(?s)^on the way\n.*ValueError: no sense$", raised.value.said)
        with pytest.raises(ChildError, match="died during 'steps': exit code 1"):
            child.ask("steps", n=1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the child's descriptor in /proc")
def test_what_a_child_says_while_its_answers_are_taken_stays_said() -> None:
    # Each answer that is taken reads what the child has said, while it says more.
    with Child("toy_child") as child:
        child.greet()
        for n in range(2000):
            child.send("note", n=n)
        for _ in range(2000):
            child.answer()
        said = Path(f"/proc/{child.pid}/fd/2").read_text()
    assert said.splitlines() == [f"line {n}" for n in range(2000)]


def test_an_error_of_clipperf_ends_a_child_that_does_not_go_on() -> None:
    with Child("toy_child") as child:
        with pytest.raises(EngineError, match="not here"):
            child.ask("known", kind="EngineError")
        assert gone(child.pid)


def test_an_operation_that_is_not_there_ends_the_child() -> None:
    with Child("toy_child") as child, pytest.raises(ChildError, match="KeyError: 'never'"):
        child.ask("never")


# --- how they end --------------------------------------------------------------------------


def test_a_child_that_is_killed_is_explained_each_time_it_is_asked() -> None:
    with Child("toy_child", noun="export process") as child:
        child.greet()
        os.kill(child.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ChildError) as raised:
                child.ask("steps", n=1)
            assert str(raised.value) == (
                "the export process died during 'steps': killed by SIGKILL (the kernel does this "
                "when RAM runs out)"
            )
            assert raised.value.code == -signal.SIGKILL


def test_a_crash_is_explained_in_a_line_and_its_stack_is_kept() -> None:
    with Child("toy_child") as child, pytest.raises(ChildError) as raised:
        child.ask("crash")
    assert str(raised.value) == (
        "the worker died during 'crash': killed by SIGSEGV: Fatal Python error: Segmentation fault"
    )
    assert re.search(r"in crash\b", raised.value.said)
    row = passes.failure(raised.value)
    assert (row["error"], row["last_words"]) == (str(raised.value), raised.value.said)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_only_the_signal_of_a_full_memory_is_taken_for_it(number: signal.Signals) -> None:
    with Child("toy_child") as child, pytest.raises(ChildError) as raised:
        child.greet()
        os.kill(child.pid, number)
        child.ask("steps", n=1)
    assert f"killed by {number.name}" in str(raised.value)
    assert ("RAM" in str(raised.value)) == (number == signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_what_a_killed_child_has_said_before_is_no_reason(number: signal.Signals) -> None:
    """It is kept, with the rest of its last words; a crash's report is a reason."""
    with Child("toy_child") as child, pytest.raises(ChildError) as raised:
        child.ask("chat", number=int(number))
    crashed = number == signal.SIGABRT
    end = ": Fatal Python error: Aborted" if crashed else ""
    hint = " (the kernel does this when RAM runs out)" if number == signal.SIGKILL else ""
    said = f"the worker died during 'chat': killed by {number.name}{hint}{end}"
    assert str(raised.value) == said
    assert crashed or "nothing to do with" in raised.value.said


def test_an_error_of_many_lines_is_told_in_one() -> None:
    with Child("toy_child") as child, pytest.raises(ChildError) as raised:
        child.ask("fail", kind="long")
    assert str(raised.value) == "RuntimeError: somewhere in the library (the reason at last)"
    assert "Traceback" in raised.value.said


def test_the_last_words_are_those_since_the_last_message() -> None:
    with Child("toy_child", "goes-on") as child:
        child.ask("echo")
        with pytest.raises(ChildError, match=r"exit code 3: I have to go$") as raised:
            child.ask("leave")
    assert (raised.value.code, raised.value.said) == (3, "I have to go")


def test_a_module_that_is_not_there_is_explained() -> None:
    with Child("toy_child_that_is_not") as child, pytest.raises(ChildError, match="No module"):
        child.greet()


def test_a_hanging_child_is_ended_in_time() -> None:
    told: list[object] = []
    with Child("toy_child", timeout_s=1.0, remedy="raise --timeout") as child:
        child.greet()
        with pytest.raises(ChildError) as raised:
            child.ask("say_and_hang", told.append)
        assert str(raised.value) == (
            "no answer to 'say_and_hang' within 1 s, so the worker was ended; raise --timeout"
        )
        assert told == ["here"] and gone(child.pid)
        with pytest.raises(ChildError, match="was ended before it answered 'steps'"):
            child.ask("steps", n=1)


@pytest.mark.parametrize("how", ["end", "kill", "error", "died"])
def test_what_a_child_started_ends_with_it(how: str) -> None:
    child = Child("toy_child")
    helper = child.ask("start_helper")["pid"]
    assert psutil.pid_exists(helper)
    if how == "error":
        with pytest.raises(ZeroDivisionError), child:
            raise ZeroDivisionError
    elif how == "died":
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildError):
            child.ask("steps", n=1)
    elif how == "kill":
        child.kill()
    child.end()
    assert gone(child.pid) and gone(helper)


def test_nobody_waits_for_what_a_dead_child_has_forked() -> None:
    """It holds copies of the child's pipes."""
    with Child("toy_child") as child:
        helper = child.ask("fork_helper")["pid"]
        os.kill(child.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(ChildError, match="killed by SIGKILL"):
            child.ask("steps", n=1)
        assert time.monotonic() - start < 10
    assert gone(helper)


PARENT = """
import sys
from clipperf.system.child import Child
with Child("toy_child") as child:
    print(child.pid, child.greet()["args"], flush=True)
    child.ask("say_and_hang", lambda told: print(told, flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends after its operation")
def test_a_child_dies_with_its_parent_in_the_middle_of_an_operation() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[0])
    assert parent.stdout.readline() == "here\n"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_a_child_ends_at_the_end_of_its_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toy_child"], input="", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "ok"


def test_the_parent_waits_without_using_the_cores() -> None:
    with Child("toy_child") as child:
        child.greet()
        before = time.process_time()
        child.ask("slow", s=1.0, file=os.devnull)
        assert time.process_time() - before < 0.05


# --- where they run ------------------------------------------------------------------------


def test_nothing_is_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("types", "random", "queue", "toy_helper")
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in (*names, "clipperf"):
        (mine / f"{name}.py").write_text("raise ImportError('the user meant something else')\n")
    monkeypatch.chdir(mine)
    # An empty part of it is the working directory, too.
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}")
    with Child("toy_child") as child:
        assert child.greet()["cwd"] == str(mine)
        child.ask("echo")
        for name, file in child.ask("modules", names=names).items():
            assert not (file or "").startswith(str(mine)), name


def test_thread_pools_are_set_where_threads_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with Child("toy_child", threads=3) as child:
        variables = child.ask("variables")
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "3"
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "OMP_NUM_THREADS" not in child_environment()


def test_python_that_is_not_there() -> None:
    with pytest.raises(ChildError, match="the worker cannot be started"):
        Child("toy_child", python=str(Path("no") / "python"))
