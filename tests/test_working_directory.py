"""Commands in a folder where files are called as modules are: none of them is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, store_of

OTHERS = (
    *("queue", "random", "json", "typing", "signal", "enum", "pathlib", "tempfile", "copy"),
    *("onnx", "torch", "numpy", "typer", "rich", "msgspec", "psutil", "tokenizers", "filelock"),
    *("onnxruntime", "tensorrt", "cli", "errors"),
)
PYTHONS_OWN = ("types", "contextlib", "warnings", "functools", "clipperf")
"""What ``python -m`` imports itself before it knows what to run."""


@pytest.mark.parametrize("way", ["module", "script"])
def test_nothing_is_imported_from_there(
    sample_artifact: Path, home: Path, tmp_path: Path, way: str, samples: str
) -> None:
    store_of(sample_artifact, home)
    mine = tmp_path / "mine"
    mine.mkdir()
    script = Path(sys.executable).with_name("clipperf")
    if way == "script" and not script.exists():
        pytest.skip("clipperf is not installed here")
    for name in OTHERS if way == "module" else (*OTHERS, *PYTHONS_OWN):
        (mine / f"{name}.py").write_text(f"print('stray'); raise SystemExit('mine: {name}')\n")
    # An empty part is the working directory, too, for Python's own start as well.
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    path = [str(ROOT), *others, *([""] if way == "module" else [])]
    start = ["-m", "clipperf"] if way == "module" else [str(script)]
    for words in (
        ["export", "clipperf-sample"],
        ["eval", "clipperf-sample", "--runtime", "onnx", "--dataset", samples]
        if way == "module"
        else ["doctor"],
    ):
        done = subprocess.run(
            [sys.executable, *start, *words],
            cwd=mine,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "stray" not in done.stdout + done.stderr
        assert "mine:" not in done.stdout + done.stderr
