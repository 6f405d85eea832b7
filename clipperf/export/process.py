"""Runs jobs of `export.worker` in a child process and brings back their outcomes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from clipperf import errors
from clipperf.errors import ExportError

_ready: Worker | None = None
"""The worker that `started_early` has started, until a job takes it."""


class Worker:
    """A child process for jobs one after the other: torch is imported once for all of them.

    It ends with its ``with`` block; where that fails, it is killed.
    """

    def __init__(self) -> None:
        self._importing = False
        self._said_bytes = 0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "clipperf.export.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
            )
        except BaseException:
            self._stderr.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close(kill=kind is not None)

    def close(self, kill: bool = False) -> None:
        """End the child, after the job that it is at, or now."""
        with self._stderr, self._child:
            if kill:
                self._child.kill()
            assert self._child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()

    def run(
        self, job: dict[str, Any], what: str, on_stage: Callable[[str], None] = lambda stage: None
    ) -> dict[str, Any]:
        """Run a job, telling its stages as they begin; `what` names it where the process dies.

        Raises:
            ClipperfError: of the kind that the child reports, or ExportError where it died.
        """
        if self._importing:
            self._importing = False
            self._answer(what, on_stage)
        self._ask(job)
        return self._answer(what, on_stage)

    def start_imports(self) -> None:
        """Let the child import what an export needs while the caller does something else."""
        self._ask({"op": "imports"})
        self._importing = True

    def _ask(self, job: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        self._said_bytes = os.fstat(self._stderr.fileno()).st_size
        with contextlib.suppress(BrokenPipeError):  # it died: then it answers nothing
            self._child.stdin.write(f"{json.dumps(job)}\n")
            self._child.stdin.flush()

    def _answer(self, what: str, on_stage: Callable[[str], None]) -> dict[str, Any]:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            answer = json.loads(line)
            if "done" in answer:
                return dict(answer["done"])
            if "error" in answer:
                raise getattr(errors, answer["kind"], ExportError)(answer["error"])
            on_stage(answer["stage"])
        code = self._child.wait()
        self._stderr.seek(self._said_bytes)
        tail = self._stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        ended = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"exited {code}"
        raise ExportError(f"{what}: the export process {ended}: {' '.join(tail) or 'no message'}")


def worker() -> Worker:
    """The worker that `started_early` keeps ready, else a new one."""
    global _ready
    taken, _ready = _ready, None
    return taken or Worker()


@contextlib.contextmanager
def started_early() -> Iterator[None]:
    """Start the first `worker` of the block now, and its imports, which take seconds.

    One that no job has taken is killed with the block, or by `dismiss`. Blocks do not nest.
    """
    global _ready
    _ready = Worker()
    try:
        _ready.start_imports()
        yield
    finally:
        dismiss()


def dismiss() -> None:
    """End the worker that was started early, if there is one: nothing has to be exported."""
    global _ready
    if _ready is not None:
        _ready.close(kill=True)
        _ready = None


def run_worker(
    job: dict[str, Any], what: str, on_stage: Callable[[str], None] = lambda stage: None
) -> dict[str, Any]:
    """Run one job in a process of its own; see `Worker.run`."""
    with Worker() as child:
        return child.run(job, what, on_stage)
