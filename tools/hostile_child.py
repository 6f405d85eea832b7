"""The child of `hostile_inputs`: one input, given to clipperf as a user would."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def main() -> int:
    """Read a job, do it, and print what came of it."""
    job = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (job["address_space_bytes"],) * 2)
    from clipperf.errors import ClipperfError
    from clipperf.system.processes import status_bytes

    foreign = False
    started = time.monotonic()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = _opened(job)
            started = time.monotonic()
            said = _outcome(job, model)
        if caught:
            said += f", {caught[-1].category.__name__}: {caught[-1].message}"
    except ClipperfError as exc:
        said = f"{type(exc).__name__}: {exc}"
    except BaseException as exc:  # noqa: BLE001 - that is the question
        said, foreign = f"{type(exc).__name__}: {exc}", True
    seconds = time.monotonic() - started
    peak_mib = (status_bytes("VmHWM") or 0) >> 20
    json.dump(
        {"said": said, "foreign": foreign, "seconds": seconds, "peak_mib": peak_mib}, sys.stdout
    )
    return 0


def _opened(job: dict[str, Any]) -> Any:
    import clipperf

    return None if job["kind"] == "dataset" else clipperf.load(job["artifact"], threads=1)


def _outcome(job: dict[str, Any], model: Any) -> str:
    if job["kind"] == "dataset":
        from clipperf.evals.datasets import load_dataset

        data = load_dataset(job["given"])
        return f"dataset of {len(data.images)} images, {len(data.notes)} notes"
    if job["kind"] == "image":
        rows = model.encode_images([job["given"]])
    else:
        rows = model.encode_texts([Path(job["given"]).read_text("utf-8", "surrogatepass")])
    return "embedding" if np.isfinite(rows).all() else "embedding that is not finite"


if __name__ == "__main__":
    sys.exit(main())
