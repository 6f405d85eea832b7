"""Where the child processes of exports come from: what they run is in `export.worker`."""

from __future__ import annotations

from typing import Any

from clipperf.errors import ChildError, ExportError
from clipperf.export.job import Built, Job, Tell
from clipperf.nouns.artifact import Parity
from clipperf.serialize import from_json
from clipperf.system.child import Child


class Worker(Child):
    """A child process for jobs one after the other; it ends with its ``with`` block.

    Raises:
        ExportError: it cannot be started.
    """

    def __init__(self) -> None:
        try:
            super().__init__("clipperf.export.worker", noun="export process")
        except ChildError as exc:
            raise ExportError(str(exc)) from exc

    def run(
        self, op: str, what: str, on_stage: Tell = lambda stage: None, **fields: Any
    ) -> dict[str, Any]:
        """Run an operation, telling its stages; `what` names it where the process dies.

        Raises:
            ClipperfError: of the kind that the child reports, or ExportError where it died.
        """
        try:
            return self.ask(op, on_stage, **fields)
        except ChildError as exc:
            raise ExportError(f"{what}: {exc}") from exc

    def make(self, job: Job, on_stage: Tell) -> Built:
        """Make a tower; raises as `run`."""
        return from_json(Built, self.run("make", job.label, on_stage, job=job))


class Workshop:
    """Where an export's child processes come from; one of them may have been started early.

    That one, if no job has taken it, is killed with the ``with`` block, or by `dismiss`.
    """

    def __init__(self) -> None:
        self.ready: Worker | None = None

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *error: object) -> None:
        self.dismiss()

    def start_early(self) -> Worker:
        """Start the process for what needs torch now, and its imports, which take seconds."""
        self.ready = Worker()
        self.ready.send("imports")
        return self.ready

    def worker(self, torch: bool = False) -> Worker:
        """A process for jobs: the early one, where they need torch and it is there."""
        if not torch or self.ready is None:
            return Worker()
        taken, self.ready = self.ready, None
        return taken

    def dismiss(self) -> None:
        """End the process that was started early, if there is one: nothing has to be exported."""
        if self.ready is not None:
            with self.ready:
                self.ready.kill()
            self.ready = None

    def run(self, op: str, what: str, **fields: Any) -> dict[str, Any]:
        """Run one operation in a process of its own; see `Worker.run`."""
        with self.worker() as worker:
            return worker.run(op, what, **fields)

    def gate(self, job: Job, built: Built) -> Parity:
        """Run an exporter's gate in a process of its own; raises as `Worker.run`."""
        done = self.run("gate", job.label, job=job, built=built)
        return from_json(Parity, done)
