"""Runs one job of `export.worker` in a child process and brings back its outcome."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from clipperf import errors
from clipperf.errors import ExportError


def run_worker(
    job: dict[str, Any], what: str, on_stage: Callable[[str], None] = lambda stage: None
) -> dict[str, Any]:
    """Run a job, telling its stages as they begin; `what` names it where the process dies.

    Raises:
        ClipperfError: of the kind that the child reports, or ExportError where it died.
    """
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "clipperf.export.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as child,
    ):
        try:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(json.dumps(job))
            child.stdin.close()
            answer: dict[str, Any] = {}
            for line in child.stdout:
                answer = json.loads(line)
                if "stage" in answer:
                    on_stage(answer["stage"])
            code = child.wait()
        except BaseException:
            child.kill()
            raise
        if "done" in answer:
            return dict(answer["done"])
        if "error" in answer:
            raise getattr(errors, answer["kind"], ExportError)(answer["error"])
        stderr.seek(0)
        tail = stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        ended = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"exited {code}"
        raise ExportError(f"{what}: the export process {ended}: {' '.join(tail) or 'no message'}")
