"""Models that were loaded before a fork, used in the child: as in the parent, or a clear error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.variant import Variant

FORK = """
import os, signal, sys
import numpy as np
from PIL import Image
import clipperf, clipperf.errors
folder, streams, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
images = [Image.new("RGB", (80, 60), colour) for colour in ("red", "blue", "green")]
texts = ["a", "a red apple", "the sea"]
model = clipperf.load(folder, threads=2, streams=streams)
wanted = model.encode_images(images), model.encode_texts(texts)
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    if how == "replaced":
        os.rename(folder, folder + "-gone")
        try:
            model.encode_texts(texts)
        except clipperf.errors.EngineError as exc:
            assert "after the fork" in str(exc)
            os._exit(0)
        os._exit(1)
    if how == "used":
        assert np.allclose(model.encode_images(images), wanted[0], atol=1e-4)
        assert np.allclose(model.encode_texts(texts), wanted[1], atol=1e-4)
    model.close()
    del model
    sys.exit(0)  # as every interpreter ends: whatever is left is freed
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert np.allclose(model.encode_images(images), wanted[0], atol=1e-4)
model.close()
print("fine")
"""


FIRST_RUN = """
import os, signal, sys, threading
import numpy as np
import clipperf
from clipperf.engines import openvino_first
model = clipperf.load(sys.argv[1], threads=1, self_test=False)
inside, done = threading.Event(), threading.Event()

def run():
    with openvino_first.run():
        inside.set()
        done.wait(60)

thread = threading.Thread(target=run)
thread.start()
assert inside.wait(20)
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    np.save(sys.argv[2], model.encode_texts(["a red apple"]))
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
done.set()
thread.join()
assert np.allclose(model.encode_texts(["a red apple"]), np.load(sys.argv[2]), atol=1e-4)
model.close()
print("fine")
"""


@pytest.fixture(scope="module")
def openvino_artifact(sample_artifact: Path) -> Path:
    pytest.importorskip("openvino", reason="pip install 'clipperf[openvino]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))
        spec = zoo.resolve("clipperf-sample")
        return make(spec, ("image", "text"), Variant("openvino")).folder


def forked(folder: Path, streams: int, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FORK, folder, str(streams), how],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="forks with threads are Linux's")
@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("how", ["used", "closed"])
def test_a_fork_of_onnx(sample_artifact: Path, streams: int, how: str) -> None:
    forked(sample_artifact, streams, how)


@pytest.mark.skipif(sys.platform != "linux", reason="forks with threads are Linux's")
@pytest.mark.parametrize(("streams", "how"), [(1, "used"), (2, "used"), (2, "closed")])
def test_a_fork_of_openvino(openvino_artifact: Path, streams: int, how: str) -> None:
    forked(openvino_artifact, streams, how)


@pytest.mark.skipif(sys.platform != "linux", reason="forks with threads are Linux's")
def test_a_fork_while_openvino_runs_for_the_first_time(
    openvino_artifact: Path, tmp_path: Path
) -> None:
    """A thread of the parent's holds what keeps two first runs apart, and begins nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_RUN, openvino_artifact, tmp_path / "found.npy"],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "fine", done.stderr
