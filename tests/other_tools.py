"""The tools that read what clipperf lays out for them, installed for the tests under ``build/``.

Each is installed once, at the versions named here, and kept; a test that cannot have one is
skipped with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
import pytest

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "tools"
INSTALL_S = 500

TRANSFORMERS_JS = ("@huggingface/transformers@4.3.1",)
FASTEMBED = ("fastembed==0.9.1", "loguru==0.7.3", "mmh3==5.3.1", "py_rust_stemmers==0.1.8")
OPTIMUM = (
    *("optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6"),
    *("huggingface-hub==0.36.2", "tokenizers==0.22.2"),
)


def transformers_js() -> Path:
    """A folder with transformers.js in its ``node_modules``."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("Node and npm are not installed")
    # Its postinstall step fetches CUDA's libraries, which nobody here needs.
    command = (npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix")
    return _installed("transformers.js", (*command, "{}", *TRANSFORMERS_JS))


def fastembed() -> Path:
    """A folder to import fastembed from; what it needs beside is the tests' own."""
    return _pip("fastembed", FASTEMBED)


def optimum() -> Path:
    """A folder to import optimum-onnx from, with the transformers that it takes."""
    return _pip("optimum", OPTIMUM)


def _pip(name: str, packages: Sequence[str]) -> Path:
    # Without what they need: onnxruntime would take the place of the tests' own.
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--target")
    return _installed(name, (sys.executable, "-m", "pip", "install", *options, "{}", *packages))


def _installed(name: str, command: Sequence[str]) -> Path:
    folder = BUILD / name
    mark = folder / ".installed"
    BUILD.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(BUILD / f"{name}.lock"):
        wanted = "\n".join(command)
        if mark.is_file() and mark.read_text() == wanted:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        words = [word.replace("{}", str(folder)) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"{name} cannot be installed here: {last}")
        mark.write_text(wanted)
    return folder


def run_json(words: Sequence[object], given: Any, **environment: str) -> Any:
    """What a program prints as JSON that is given JSON on its standard input."""
    done = subprocess.run(
        [*map(str, words)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def python_with(folder: Path, code: str, given: Any) -> Any:
    """`run_json` of Python code that can import what lies in a folder."""
    return run_json((sys.executable, "-c", code), given, PYTHONPATH=str(folder))


def node_with(folder: Path, code: str, given: Any, scratch: Path) -> Any:
    """`run_json` of a JavaScript module that can import the ``node_modules`` of a folder."""
    scratch.mkdir(exist_ok=True)
    link = scratch / "node_modules"
    if not link.exists():
        link.symlink_to(folder / "node_modules", target_is_directory=True)
    script = scratch / "script.mjs"
    script.write_text(code)
    return run_json(("node", script), given)
