"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of this test alone."""
    path = tmp_path / "home"
    monkeypatch.setenv("CLIPPERF_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def sample_artifact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundled sample exported once, both towers in fp32. Read it, copy it, never change it."""
    from clipperf.export.build import export_model
    from clipperf.models import zoo

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(tmp_path_factory.mktemp("session-home")))
        folder = export_model(zoo.resolve("clipperf-sample"), ("image", "text")).folder
    yield folder


@pytest.fixture
def cli(home: Path) -> Cli:
    """`cli("models", "--json")` runs the command line in a process of its own."""

    def run(*args: object, check: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "clipperf", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=ROOT,
            env={**os.environ, "CLIPPERF_HOME": str(options.pop("home", home))},
            **options,
        )
        assert not check or done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
        return done

    return run
