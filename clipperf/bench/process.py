"""Worker processes as the parent sees them: start, ask, wait without polling, end, explain."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from clipperf.errors import MeasurementError
from clipperf.nouns.cell import Status

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Read by thread pools when their library loads, so they are set before Python starts."""

TAIL_LINES = 12
TAIL_CHARACTERS = 1500


BENCH_WORKER = (sys.executable, "-X", "faulthandler", "-m", "clipperf.bench.worker")


class WorkerError(MeasurementError):
    """A worker could not do a step; `status` is what its row says."""

    def __init__(self, message: str, status: Status = "failed") -> None:
        super().__init__(message)
        self.status: Status = status


class Worker:
    """One `bench.worker` process, or another `command` that speaks its protocol.

    A thread per worker sits in a blocking read and hands lines over, so that the parent can wait
    with a timeout on every platform (pipes cannot be selected on Windows) and burns no cycles of
    the cores under measurement.
    """

    def __init__(
        self,
        threads: int,
        timeout_s: float,
        command: Sequence[str] = BENCH_WORKER,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._ended = False
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=worker_environment(threads) if env is None else env,
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as exc:
            self._stderr.close()
            raise WorkerError(f"a worker process cannot be started: {exc}") from exc
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.hello: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def greet(self) -> dict[str, Any]:
        """Wait until the worker is up; returns its greeting.

        Raises:
            WorkerError: as `ask`.
        """
        self.hello = self._answer("start")
        return self.hello

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            WorkerError: the engine failed, the process died, or nothing came in time.
        """
        assert self._process.stdin is not None
        # A worker that is dead already is explained by `_answer`, which finds its end.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self._process.stdin.flush()
        return self._answer(op)

    def _answer(self, step: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._timeout_s)
        except queue.Empty:
            self.kill()
            raise WorkerError(
                f"no answer to {step!r} within {self._timeout_s:g} s, so the worker was ended; "
                f"raise --timeout if the cell is that slow"
            ) from None
        if not line:
            raise WorkerError(self._death(step))
        try:
            answer = json.loads(line)
        except ValueError as exc:
            self.kill()
            raise WorkerError(f"the worker wrote nonsense in {step!r}: {line[:200]!r}") from exc
        if answer["status"] != "ok":
            raise WorkerError(answer["error"], answer["status"])
        return answer

    def _death(self, step: str) -> str:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"the worker closed its output during {step!r} and did not end"
        how = exit_reason(code)
        tail = self._tail()
        return f"the worker died during {step!r}: {how}" + (f"\n{tail}" if tail else "")

    def _tail(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4 * TAIL_CHARACTERS))
        text = self._stderr.read().decode("utf-8", "replace").strip()
        _, fatal, stack = text.rpartition("Fatal Python error: ")
        if fatal:
            # faulthandler's report, innermost frame first.
            return "\n".join((fatal + stack).splitlines()[:TAIL_LINES])[:TAIL_CHARACTERS]
        return "\n".join(text.splitlines()[-TAIL_LINES:])[-TAIL_CHARACTERS:]

    def kill(self) -> None:
        """End the worker and whatever it started, now."""
        self._kill_group()
        self._process.kill()
        self._process.wait()

    def _kill_group(self) -> None:
        """The worker leads its own process group, so helpers that it started go with it."""
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """End the worker, politely if it is waiting; safe to call twice."""
        if self._ended:
            return
        self._ended = True
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.write('{"op": "stop"}\n')
                self._process.stdin.close()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.kill()
        self._kill_group()
        for pipe in (self._process.stdin, self._stderr):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        self._reader.join(timeout=5)
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()


def exit_reason(code: int) -> str:
    """Words for a return code of `subprocess`: negative is the number of a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (the kernel does this when RAM runs out)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def worker_environment(threads: int) -> dict[str, str]:
    """The parent's environment, with every thread pool set and this clipperf importable."""
    env = dict(os.environ)
    env.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    env["PYTHONSAFEPATH"] = "1"
    # CUDA would put the fastest GPU first, NVML's order is that of the bus.
    env.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    root = str(Path(__file__).resolve().parents[2])
    # Site-packages on PYTHONPATH would come before the standard library.
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    return env
