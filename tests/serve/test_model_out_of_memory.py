"""A call that finds too little memory fails in words, and the next one works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TIMEOUT_S, store_of

from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.variant import Variant

CALLS = """
import resource, sys
import numpy as np
import clipperf
from clipperf.errors import EngineError

model = clipperf.load(sys.argv[1])
texts = [f"a drawing of {i} " + "very " * 60 for i in range(256)]
pixels = np.random.default_rng(0).random((256, 3, 64, 64), np.float32)
calls = {"pixels": model.encode_pixels, "texts": model.encode_texts}
inputs = {"pixels": pixels, "texts": texts}
before = {name: call(inputs[name][:2]) for name, call in calls.items()}
free = resource.getrlimit(resource.RLIMIT_AS)

def used_bytes():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmSize")).split()[1])

for name, call in calls.items():
    for spare in (2**20, 2**22):
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes() + spare, free[1]))
        try:
            call(inputs[name], batch_size=256)
            print(name, "fitted")
        except EngineError as exc:
            print(name, exc)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, free)
        # Another shape than the one that failed, and that one.
        np.testing.assert_allclose(call(inputs[name][:2]), before[name], rtol=1e-4, atol=1e-4)
        assert np.isfinite(call(inputs[name], batch_size=256)).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what limits memory is Linux's")
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_the_next_call_works(runtime: str, home: Path, sample_artifact: Path) -> None:
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    store_of(sample_artifact, home)
    folder = make(zoo.resolve("clipperf-sample"), ("image", "text"), Variant(runtime)).folder
    done = subprocess.run(
        [sys.executable, "-c", CALLS, folder],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 4
    failed = [line for line in said if not line.endswith("fitted")]
    assert failed, said
    for line in failed:
        assert re.search(r": out of memory at batch \d+; use a smaller --batch$", line), line
