"""Servers that speak the interfaces of S3 and of Google Cloud Storage, on this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import other_tools
import pytest

BUCKET = "bucket"
START_S = 120


@dataclass(frozen=True)
class ObjectStore:
    """A running server with an empty bucket: its `url`, and what its clients need in `env`."""

    url: str
    env: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class _Kind:
    """What answers `scheme` here: packages, the program's arguments, and its clients' variables."""

    scheme: str
    packages: tuple[str, str]
    program: tuple[str, ...]
    env: dict[str, str]


_KINDS = {
    kind.scheme: kind
    for kind in (
        _Kind(
            "s3",
            ("s3fs", "moto"),
            ("moto_server", "-H", "127.0.0.1", "-p", "PORT"),
            {
                "AWS_ENDPOINT_URL": "HERE",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        ),
        _Kind(
            "gs",
            ("gcsfs", "gcp_storage_emulator"),
            ("gcp-storage-emulator", "start", "--host", "127.0.0.1", "--port", "PORT", "-M"),
            {"STORAGE_EMULATOR_HOST": "HERE", "FSSPEC_GCS_TOKEN": "anon"},
        ),
    )
}
SCHEMES = tuple(_KINDS)


@contextmanager
def serving(scheme: str) -> Iterator[ObjectStore]:
    """A server of a scheme with an empty bucket; skipped where its packages are not installed."""
    kind = _KINDS[scheme]
    missing = [name for name in kind.packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    port = str(other_tools.free_port())
    here = f"http://127.0.0.1:{port}"
    env = {name: here if value == "HERE" else value for name, value in kind.env.items()}
    program, *words = (port if word == "PORT" else word for word in kind.program)
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(program)), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(here, process)
        made = (
            "import sys, fsspec\n"
            f"fs, _ = fsspec.core.url_to_fs('{scheme}://{BUCKET}')\n"
            f"fs.mkdir('{BUCKET}')\n"
        )
        subprocess.run([sys.executable, "-c", made], check=True, env=os.environ | env)
        yield ObjectStore(f"{scheme}://{BUCKET}", env)
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while True:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.1)
