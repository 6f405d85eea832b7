"""Nothing talks to the network and nothing is written to a user's home that nobody asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from clipperf.system import quiet

LOAD = """
import sys
from PIL import Image
import clipperf
with clipperf.load(sys.argv[1]) as model:
    model.encode_images([Image.new("RGB", (80, 60), "red")] * 3)
    model.encode_texts(["a", "b c"])
"""

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace, which watches for the network, is not installed"
)


def watched(tmp_path: Path, *command: object) -> list[str]:
    """Run a command under strace with an empty home; what it did that nobody asked for."""
    home, temporary, log = tmp_path / "empty-home", tmp_path / "empty-tmp", tmp_path / "calls"
    home.mkdir()
    temporary.mkdir()
    env = {k: v for k, v in os.environ.items() if k not in quiet.VARIABLES}
    env |= {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "CLIPPERF_HOME": str(tmp_path / "store"),
    }
    env.pop("XDG_CACHE_HOME", None)
    words = map(str, command)
    done = subprocess.run(
        ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=network", "-o", log, *words],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,
        env=env,
    )
    if "ptrace" in done.stderr:
        pytest.skip(f"strace cannot watch here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stderr
    calls = log.read_text().splitlines()
    talk = [line for line in calls if re.search(r"\b(connect|sendto|bind)\(.*AF_INET", line)]
    written = [str(path) for folder in (home, temporary) for path in folder.rglob("*")]
    # An empty folder, which torch makes as soon as its compiler is imported.
    written = [path for path in written if "torchinductor_" not in path]
    return talk + written


@needs_strace
def test_a_deployment_is_quiet(sample_artifact: Path, tmp_path: Path) -> None:
    assert watched(tmp_path, sys.executable, "-c", LOAD, sample_artifact) == []


@needs_strace
def test_a_deployment_of_openvino_is_quiet(sample_artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="pip install 'clipperf[openvino]'")
    folder = tmp_path / "artifact"
    shutil.copytree(sample_artifact, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    # OpenVINO opens ONNX files, too.
    (folder / "manifest.json").write_text(json.dumps({**manifest, "runtime": "openvino"}))
    assert watched(tmp_path, sys.executable, "-c", LOAD, folder) == []


@needs_strace
def test_doctor_is_quiet(tmp_path: Path) -> None:
    assert watched(tmp_path, sys.executable, "-m", "clipperf", "doctor") == []


@needs_strace
@pytest.mark.slow
def test_an_export_is_quiet(tmp_path: Path, samples: str) -> None:
    """To ONNX, and from there to eight bits of OpenVINO, whose quantiser would like to tell."""
    command = (sys.executable, "-m", "clipperf", "export", "clipperf-sample", "--tower", "image")
    options = ("--runtime", "openvino", "--precision", "int8")
    few = ("--calibrate", samples, "--margin", "100")
    assert watched(tmp_path, *command, *options, *few) == []


def test_who_wants_reports_sets_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in quiet.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    quiet.hush()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == os.environ["NNCF_CI"] == "1"
    monkeypatch.setenv(quiet.ALLOW, "1")
    monkeypatch.delenv("NNCF_CI")
    quiet.hush()
    assert "NNCF_CI" not in os.environ
