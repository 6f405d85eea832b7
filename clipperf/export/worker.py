"""The child process of an export: what needs torch, and what builds engines.

``python -m clipperf.export.worker`` reads JSON jobs from standard input, one a line. For each it
prints one JSON line per stage and a last one with the outcome. A process of its own gives back all
of torch's memory before exported towers are loaded for the parity check, and lets a kill hit it
without harm.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from clipperf.errors import ClipperfError
from clipperf.inputs.preprocess_spec import PREPROCESS_FILE, PreprocessSpec
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models.family import family_of
from clipperf.nouns.model import ModelSpec, Tower
from clipperf.nouns.variant import Side
from clipperf.serialize import from_json, to_json
from clipperf.system.files import storage_error, write_json
from clipperf.system.processes import (
    die_with_parent,
    protocol_streams,
    reset_peak_rss,
    status_bytes,
)


def reference_name(side: Side) -> str:
    """The file with PyTorch fp32's embeddings of a side's first parity inputs, [n, embed_dim]."""
    return f"parity-{side}.npy"


def imports(job: dict[str, Any]) -> dict[str, Any]:
    """Import what `export` needs; where that fails, the job that needs it says so."""
    with contextlib.suppress(ImportError, OSError):
        import onnxscript  # noqa: F401
        import open_clip  # noqa: F401
        import torch.onnx  # noqa: F401

    return {}


def fetch(job: dict[str, Any]) -> dict[str, Any]:
    """Make sure that a tag's weights are on this machine."""
    spec = from_json(ModelSpec, job["spec"])
    return {"path": str(family_of(spec).fetch(spec))}


def export(job: dict[str, Any]) -> dict[str, Any]:
    """Export one tower into ``job["folder"]``, with what the parity check needs beside it."""
    import numpy as np
    import torch

    from clipperf.export.judge import parity
    from clipperf.export.judge.inputs import parity_inputs
    from clipperf.graph import kept
    from clipperf.graph import trace as onnx_export

    spec = from_json(ModelSpec, job["spec"])
    side: Side = job["side"]
    folder = Path(job["folder"])
    torch.set_num_threads(job["threads"])
    start = time.perf_counter()

    tell("preparing")
    pixels = write_settings(spec, side, folder)
    takes_bytes = pixels if side == "image" and job["input"] == "uint8" else None
    inputs = torch.from_numpy(parity_inputs(folder, side))
    tell("building")
    tower = family_of(spec).build(spec, side, job["normalized"])
    if side == "text":
        tower = replace(tower, start_id=Tokenizer.from_folder(folder).start_id)
    key = onnx_export.graph_key(tower, job["precision"], family_of(spec).config(spec))
    # What takes bytes is computed from the weights, so a proven graph says too little of it.
    proven = takes_bytes is None and kept.is_proven(key)
    batches = parity.batches_for(spec, side, proven)
    tell("reference")
    with torch.inference_mode():
        pairs = inputs[: sum(batches)].split(2)  # few at a time: activations are memory, too
        reference = torch.cat([tower.module(pair) for pair in pairs])
    np.save(folder / reference_name(side), reference.numpy())
    tell("exporting")
    (folder / side).mkdir(exist_ok=True)
    model_path = folder / side / "model.onnx"
    onnx_export.export_onnx(tower, model_path, job["precision"], key, takes_bytes)
    given, produced = onnx_export.io_specs(tower, job["input"])
    return {
        "inputs": [to_json(given)],
        "outputs": [to_json(produced)],
        "graph": key,
        "notes": _notes(tower),
        "batches": list(batches),
        "build_s": time.perf_counter() - start,
        "peak_rss_bytes": status_bytes("VmHWM"),
    }


def _notes(tower: Tower) -> dict[str, str]:
    """What whoever feeds the exported graph by hand has to know of it."""
    from clipperf.models.lean import first_token

    token = first_token(tower.module, tower.start_id)
    return {} if token is None else {"first token": f"taken to be {token}, not read"}


def engine(job: dict[str, Any]) -> dict[str, Any]:
    """Build one TensorRT engine; see `export.jobs.plan.build_engine`."""
    from clipperf.export.jobs.plan import build_engine

    return build_engine(job, tell)


def check(job: dict[str, Any]) -> dict[str, Any]:
    """Run an engine on its GPU and compare it with PyTorch fp32; see `check_engine`."""
    from clipperf.export.exporters.tensorrt import check_engine

    return check_engine(job)


def derive(job: dict[str, Any]) -> dict[str, Any]:
    """Make one tower from its fp32 ONNX file; see `export.jobs.derive.derive`."""
    from clipperf.export.jobs.derive import derive as run

    return run(job, tell)


def write_settings(spec: ModelSpec, side: Side, folder: Path) -> PreprocessSpec:
    """Write the files that say how a model's inputs are made; returns how images are."""
    pixels = family_of(spec).pixels(spec)
    write_json(folder / PREPROCESS_FILE, pixels.to_json())
    if side == "text":
        family_of(spec).write_tokenizer(spec, folder)
    return pixels


def tell(stage: str) -> None:
    """Report a stage to the parent."""
    _answer({"stage": stage})


def _answer(line: dict[str, Any]) -> None:
    print(json.dumps(line), file=_answers, flush=True)


_answers: TextIO = sys.stdout
"""Where the parent listens; libraries print to standard output as they please."""


OPERATIONS = {
    "imports": imports,
    "fetch": fetch,
    "export": export,
    "engine": engine,
    "check": check,
    "derive": derive,
}


def main() -> int:
    """Run the jobs on standard input; errors that clipperf knows become an answer."""
    global _answers
    die_with_parent()
    jobs, _answers = protocol_streams()
    for line in jobs:
        reset_peak_rss()
        _answer(_outcome(json.loads(line)))
        gc.collect()
    return 0


def _outcome(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"done": OPERATIONS[job["op"]](job)}
    except ClipperfError as exc:
        return {"error": str(exc), "kind": type(exc).__name__}
    except OSError as exc:
        error = storage_error(Path(job.get("folder") or job.get("plan") or "."), exc)
        return {"error": str(error), "kind": "StorageError"}


if __name__ == "__main__":
    sys.exit(main())
