"""The child process of exports: what needs torch, and what builds engines.

``python -m clipperf.export.worker`` is started by `export.workshop`. A process of its own gives
back all of torch's memory before exported towers are loaded for the parity check, and lets a kill
hit it without harm.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from dataclasses import replace
from pathlib import Path

from clipperf.export.exporter import job_from_json
from clipperf.export.job import Built, Tell
from clipperf.models.family import family_of
from clipperf.nouns.artifact import Parity
from clipperf.nouns.model import ModelSpec
from clipperf.serialize import from_json
from clipperf.system.files import translated
from clipperf.system.processes import reset_peak_rss, status_bytes, trim_heap
from clipperf.system.protocol import Fields, serve


def imports(fields: Fields, tell: Tell) -> None:
    """Import what tracing a tower needs; where that fails, the job that needs it says so."""
    with contextlib.suppress(ImportError, OSError):
        import onnxscript  # noqa: F401
        import open_clip  # noqa: F401
        import torch.onnx  # noqa: F401


def fetch(fields: Fields, tell: Tell) -> Fields:
    """Make sure that a tag's weights are on this machine."""
    spec = from_json(ModelSpec, fields["spec"])
    return {"path": str(family_of(spec).fetch(spec))}


def make(fields: Fields, tell: Tell) -> Built:
    """Make one tower; see `Exporter.job`."""
    exporter, job = job_from_json(fields["job"])
    gc.collect()
    trim_heap()
    reset_peak_rss()
    start = time.perf_counter()
    with translated(Path(job.folder)):
        built = exporter.job(job, tell)
    seconds = built.build_s or time.perf_counter() - start
    peak = built.peak_rss_bytes or status_bytes("VmHWM")
    return replace(built, build_s=seconds, peak_rss_bytes=peak)


def gate(fields: Fields, tell: Tell) -> Parity:
    """Check one tower; see `Exporter.gate`."""
    exporter, job = job_from_json(fields["job"])
    return exporter.gate(job, from_json(Built, fields["built"]))


OPERATIONS = {"imports": imports, "fetch": fetch, "make": make, "gate": gate}

if __name__ == "__main__":
    sys.exit(serve(OPERATIONS, goes_on=True))
