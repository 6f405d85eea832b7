"""`make demo`, but for the environment that it makes: the main job on the bundled sample.

Its artifact is built here; what is measured of it is already in the store.
"""

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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_make_demo_leaves_a_report_that_opens_from_disk(tmp_path: Path, best_store: Path) -> None:
    shutil.copytree(best_store, tmp_path / "store")
    done = subprocess.run(
        ["sh", str(ROOT / "tools" / "demo.sh"), str(tmp_path / "demo")],
        env={
            **os.environ,
            "CLIPPERF_HOME": str(tmp_path / "store"),
            "CLIPPERF": str(Path(sys.executable).parent / "clipperf"),
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    for word in ("clipperf-sample", "onnx", "torch", "recall@1", "text-to-image"):
        assert word in page
    artifact = tmp_path / "demo" / "clipperf-sample"
    assert (artifact / "preprocess.json").is_file()
    towers = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["towers"]
    assert {tower["side"] for tower in towers} == {"image", "text"}
    for tower in towers:
        for name in tower["files"]:
            assert (artifact / name).is_file()
