"""The tools that read what clipperf lays out for them, installed for the tests under ``build/``.

Each is installed once, at the versions named here, and kept; a test that cannot have one is
skipped with the reason.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


# --- Triton --------------------------------------------------------------------------------

TRITON = ("nvidia-pytriton==0.7.0",)
PACKAGES_COMMAND = "pip install --no-deps --target packages "
"""How `docs/deploying.md` makes the folder of packages that Triton's Python imports from."""
TRITON_CLIENT = (
    *("tritonclient==2.73.0", "grpcio==1.85.3", "protobuf==6.33.6", "python-rapidjson==1.25"),
)
READY_S = 120


@dataclass(frozen=True)
class Server:
    """A Triton that runs: the address of its HTTP service, and where its gRPC service listens."""

    http: str
    grpc: str

    def ask(self, path: str, data: bytes | None = None, **headers: str) -> Any:
        """What it answers as JSON to a POST, without data and headers to a GET."""
        method = "GET" if data is None else "POST"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{self.http}/v2/{path}", data, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as exc:
            return json.loads(exc.read() or b"null")


def triton_site() -> Path:
    """A folder with the server."""
    return _pip("triton", TRITON)


def triton_packages() -> tuple[str, ...]:
    """What the page installs for Triton's Python beside clipperf itself, which tests have."""
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith(PACKAGES_COMMAND))
    *packages, own = shlex.split(line.removeprefix(PACKAGES_COMMAND))
    assert own == "."
    return tuple(packages)


@contextlib.contextmanager
def triton(
    repository: Path, models: Sequence[str], logs: Path, packages: Path | None = None
) -> Iterator[Server]:
    """A real Triton without a GPU, with Python's backend alone, that serves these models.

    Its Python imports from `packages`, by default this checkout and what the page installs.
    """
    if sys.platform != "linux":
        pytest.skip("Triton runs on Linux")
    site = triton_site()
    found = (packages,) if packages else (ROOT, _pip("triton-packages", triton_packages()))
    home = site / "pytriton" / "tritonserver"
    program, stub = home / "bin" / "tritonserver", "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    own, taken = home / "python_backend_stubs" / version / stub, home / "backends" / "python" / stub
    if not own.is_file():
        pytest.skip(f"Triton has no Python backend for Python {version}")
    with filelock.FileLock(BUILD / "triton.lock"):  # a stub that runs cannot be written to
        if not taken.is_file() or not filecmp.cmp(own, taken, shallow=False):
            aside = taken.with_suffix(".new")
            shutil.copyfile(own, aside)
            aside.chmod(0o755)
            aside.replace(taken)
        program.chmod(0o755)
        taken.chmod(0o755)
    ports = [free_port() for _ in range(3)]
    words = [
        *(program, f"--model-repository={repository}", f"--backend-directory={home / 'backends'}"),
        *("--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"),
        *(f"--{kind}-port={port}" for kind, port in zip(_SERVICES, ports, strict=True)),
        *("--model-control-mode=explicit", *(f"--load-model={model}" for model in models)),
    ]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        "CLIPPERF_PACKAGES": os.pathsep.join(map(str, found)),
    }
    with open(logs, "wb") as log:
        process = subprocess.Popen(
            [*map(str, words)], stdout=log, stderr=log, env=environment, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    try:
        wait_until_ready(server, process, logs)
        yield server
        assert process.poll() is None, "Triton died"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


_SERVICES = ("http", "grpc", "metrics")


def triton_client() -> Path:
    """A folder to import Triton's own client from."""
    return _pip("triton-client", TRITON_CLIENT)


def free_port() -> int:
    """A port of this machine on which nobody listens now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


LOADING = "loading: clip_"
"""What Triton's log says once the server came as far as a model of clipperf's."""


def wait_until_ready(
    server: Server, process: subprocess.Popen[bytes], logs: Path, seconds: float = READY_S
) -> None:
    """Skip the test where the server itself cannot run here; a model that does not load fails."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            said = logs.read_text(errors="replace")
            assert LOADING not in said, f"Triton died once it loaded a model: {said[-3000:]}"
            last = (said.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"Triton cannot start here: {last}")
        try:
            with urllib.request.urlopen(f"{server.http}/v2/health/ready", timeout=60):
                return
        except OSError:  # nobody listens yet, or it says that it is not ready
            time.sleep(0.2)
    said = logs.read_text(errors="replace")
    assert LOADING not in said, f"a model does not load within {seconds} s: {said[-3000:]}"
    pytest.skip(f"Triton was not ready after {seconds} s")
