"""Child processes as their parent sees them: start, ask, wait without polling, end, explain.

The child's side is `system.protocol`, which says what parent and child tell each other.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import site
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clipperf import errors
from clipperf.errors import ChildError, ClipperfError, LimitError
from clipperf.serialize import to_json
from clipperf.system import gpus
from clipperf.system.family import Guard, end_family
from clipperf.system.last_words import exit_reason, last_words, reason_of_end

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Read by thread pools when their library loads, so they are set before Python starts."""

END_S = 5.0
"""How long a child that has nothing to do may take to end."""

Fields = dict[str, Any]
OnProgress = Callable[[Any], None]


class Child:
    """A process that runs ``python -m module args``, whose main function calls `protocol.serve`.

    Threads sit in a blocking read, which hands lines over, and in a blocking wait for the child's
    end, so that the parent can wait with a timeout on every platform (pipes cannot be selected on
    Windows) and burns no cycles of cores under measurement. The child leads a process group of its
    own, is out of Ctrl-C's reach, and dies with its parent. It ends with its ``with`` block:
    killed where that fails or nobody waits for its answer, else once it has closed what it holds.

    `threads` is the size of its libraries' thread pools, by default their own choice.
    `timeout_s` is how long it may be silent, by default for ever. `python` and `env` are for
    other interpreters; see `child_environment`. In errors, `noun` is what the child is called
    and `remedy` says what to do about a child that is too slow. Where a `guard` has something
    against it, it is ended with all that it has started.

    Raises:
        ChildError: it cannot be started.
    """

    def __init__(
        self,
        module: str,
        *args: str,
        threads: int | None = None,
        timeout_s: float | None = None,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        noun: str = "worker",
        remedy: str = "",
        guard: Guard | None = None,
    ) -> None:
        self._guard = guard
        self._timeout_s = timeout_s
        self._noun = noun
        self._remedy = remedy
        self._greeting: Fields | None = None
        self._due: collections.deque[str] = collections.deque()
        self._killed = False
        self._waited_s = 0.0
        self._ended = False
        self._said_bytes = 0
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        try:
            self._process = subprocess.Popen(
                [python, "-X", "faulthandler", "-m", module, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=child_environment(threads) if env is None else env,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as exc:
            self._stderr.close()
            raise ChildError(f"the {noun} cannot be started: {exc}") from exc
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._reader.start()
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.kill()
        self.end()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def greet(self, waited_s: float = 0.0) -> Fields:
        """Wait until the child is up; returns what it said then. `waited_s`: see `answer`.

        Raises:
            ClipperfError: as `answer`.
        """
        if self._greeting is None:
            self._waited_s = waited_s
            # What is printed before the child takes the protocol over is nobody's message.
            while (message := self._message("start")) is None:
                pass
            self._greeting = self._checked(message)
        return self._greeting

    def send(self, op: str, **fields: Any) -> None:
        """Send a message; its answer, and those of messages before it, are due from now on."""
        self._due.append(op)
        assert self._process.stdin is not None
        # A child that is dead already is explained by `answer`, which finds its end.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps({"op": op, **to_json(fields)}) + "\n")
            self._process.stdin.flush()

    def answer(self, on_progress: OnProgress = lambda told: None, waited_s: float = 0.0) -> Fields:
        """Wait for the answer to the oldest message that has none yet.

        `waited_s` are seconds of `timeout_s` that have passed already, while others were waited for
        that were asked at the same time.

        Raises:
            ClipperfError: what the child reported, as the class that it was there.
            ChildError: another error in the child, or it died, hung or wrote nonsense.
        """
        self.greet()
        self._waited_s = waited_s
        op = self._due.popleft()
        while True:
            message = self._message(op)
            if message is None:
                self.kill()
                raise ChildError(f"the {self._noun} wrote nonsense in {op!r}")
            if message["status"] != "progress":
                return self._checked(message)
            on_progress(message["progress"])

    def ask(self, op: str, on_progress: OnProgress = lambda told: None, **fields: Any) -> Fields:
        """Send a message and wait for its answer; those still due before it are dropped.

        Raises:
            ClipperfError: as `answer`.
        """
        self.send(op, **fields)
        while len(self._due) > 1:
            self.answer()
        return self.answer(on_progress)

    def kill(self) -> None:
        """End the child and whatever it started, now."""
        if self._process.poll() is None:
            self._killed = True
            self._kill_group()
            self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End the child, politely if it is waiting; safe to call twice."""
        if self._ended:
            return
        self._ended = True
        if self._due:
            self.kill()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._watcher.join(timeout=END_S)
        self.kill()
        self._watcher.join()
        self._stderr.close()
        self._reader.join(timeout=END_S)
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _watch(self) -> None:
        """What the child forked holds its output open, and would have the parent wait for ever."""
        self._process.wait()
        self._kill_group()

    def _message(self, step: str) -> Fields | None:
        """The next message; None for a line that is none."""
        line = self._line(step)
        if not line:
            self._lines.put("")  # whoever asks again finds the end again
            raise self._death(step)
        try:
            message = json.loads(line)
        except ValueError:
            return None
        return message if isinstance(message, dict) and "status" in message else None

    def _line(self, step: str) -> str:
        """The next line, "" at the end; a child that is silent or takes too much is ended."""
        guard, timeout_s, waited_s = self._guard, self._timeout_s, self._waited_s
        left_s = None if timeout_s is None else max(0.0, timeout_s - waited_s)
        self._waited_s = 0.0
        if guard is not None:
            guard.begin()
        while True:
            looks_s = None if guard is None else guard.every_s
            waits = [s for s in (left_s, looks_s) if s is not None]
            line: str | None = None
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=min(waits, default=None))
            if guard is not None and line != "" and (reason := guard.look(self.pid)):
                end_family(self.pid)
                self.kill()
                raise LimitError(reason)
            if line is not None:
                return line
            left_s = None if left_s is None else left_s - min(waits)
            if left_s is not None and left_s <= 0:
                self.kill()
                remedy = f"; {self._remedy}" if self._remedy else ""
                raise ChildError(
                    f"no answer to {step!r} within {self._timeout_s:g} s, so the {self._noun} was "
                    f"ended{remedy}"
                )

    def _checked(self, message: Fields) -> Fields:
        said = self._tail()
        if not self._due:
            # Not when the next message is sent: a child that dies before that has said why.
            self._said_bytes = os.fstat(self._stderr.fileno()).st_size
        if message["status"] == "ok":
            return dict(message["answer"])
        kind: type[ClipperfError] | None = getattr(errors, message["kind"] or "none", None)
        if kind is None:
            first, *more = message["error"].strip().splitlines() or ["no reason was given"]
            reason = f"{first} ({more[-1].strip()})" if more else first
            raise ChildError(reason, code=1, said=said)
        raise kind(message["error"])

    def _death(self, step: str) -> ChildError:
        if self._killed:
            return ChildError(f"the {self._noun} was ended before it answered {step!r}")
        self._watcher.join(timeout=2 * END_S)
        code = self._process.returncode
        if code is None:
            self.kill()
            return ChildError(f"the {self._noun} closed its output during {step!r} and did not end")
        said = self._tail()
        how = f"the {self._noun} died during {step!r}: {exit_reason(code)}"
        reason = reason_of_end(said, code)
        return ChildError(f"{how}: {reason}" if reason else how, code=code, said=said)

    def _tail(self) -> str:
        """The last words on standard error since the child had nothing to do."""
        return last_words(self._stderr, self._said_bytes)

    def _kill_group(self) -> None:
        """The child leads its own process group, so helpers that it started go with it."""
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def child_environment(threads: int | None = None) -> dict[str, str]:
    """The parent's environment, with every thread pool set and this clipperf importable.

    Nothing is imported from the working directory, where a file may be called as a module is.
    """
    env = dict(os.environ)
    if threads is not None:
        env.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    env["PYTHONSAFEPATH"] = "1"
    env[gpus.ORDER] = gpus.BY_BUS  # CUDA would put the fastest first
    root = str(Path(__file__).resolve().parents[2])
    # An empty part is the working directory.
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Site-packages on PYTHONPATH would come before the standard library.
    folders = map(os.path.realpath, [*site.getsitepackages(), site.getusersitepackages()])
    if root not in folders:
        paths.insert(0, root)
    env["PYTHONPATH"] = os.pathsep.join(paths)
    return env
