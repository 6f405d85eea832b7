"""The child process of exports: many jobs in one, started early, and no trace of one that died."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from clipperf.cli import app
from clipperf.errors import ExportError, UsageError, WeightsError
from clipperf.export import process
from clipperf.export.process import Worker, run_worker, started_early
from clipperf.models import zoo
from clipperf.nouns.model import ModelSpec
from clipperf.serialize import to_json
from clipperf.system.store import cached_sha256, known_sha256


def fetch(file: Path) -> dict[str, Any]:
    """A job that needs no torch: the file of a model's weights."""
    spec = ModelSpec("m", "open_clip", "ViT-B-32", str(file), 224, 77, 512)
    return {"op": "fetch", "spec": to_json(spec)}


def offline(architecture: str) -> dict[str, Any]:
    """A job that fails: no such weights, wherever it runs."""
    spec = ModelSpec("m", "open_clip", architecture, "nobody", 224, 77, 512)
    return {"op": "fetch", "spec": to_json(spec)}


@pytest.fixture
def file(tmp_path: Path, home: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_jobs_share_a_process_and_outlive_a_failed_one(file: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with Worker() as worker:
        pid = worker._child.pid
        assert worker.run(fetch(file), "one") == {"path": str(file)}
        pytest.importorskip("open_clip")
        with pytest.raises(WeightsError, match="nobody"):
            worker.run(offline("ViT-B-32"), "two")
        assert worker.run(fetch(file), "three") == {"path": str(file)}
        assert not gone(pid)
    assert gone(pid)


def test_a_process_that_dies_is_told_from_one_that_fails(file: Path) -> None:
    with (
        Worker() as worker,
        pytest.raises(ExportError, match=r"model x: .*signal 9 \(out of memory"),
    ):
        worker.run(fetch(file), "model x")
        os.kill(worker._child.pid, signal.SIGKILL)
        worker.run(fetch(file), "model x")
    with pytest.raises(
        ExportError, match="model y: the export process exited 1: KeyError: 'never'"
    ):
        run_worker({"op": "never"}, "model y")


def test_the_first_job_takes_the_process_that_was_started_early(file: Path) -> None:
    pytest.importorskip("open_clip")
    with started_early():
        ready = process._ready
        assert ready is not None
        with process.worker() as first:
            assert first is ready
            assert first.run(fetch(file), "one") == {"path": str(file)}
        assert gone(ready._child.pid)
        with process.worker() as second:
            assert second is not ready
    with started_early():
        ready = process._ready
        assert ready is not None
        assert run_worker(fetch(file), "other work") == {"path": str(file)}
        assert process._ready is ready
        process.dismiss()
        assert gone(ready._child.pid)
    assert process._ready is None


@pytest.mark.timing
def test_a_process_that_nobody_took_is_killed_at_once() -> None:
    with pytest.raises(UsageError), started_early():
        ready = process._ready
        assert ready is not None
        start = time.perf_counter()
        raise UsageError("no such model")
    assert gone(ready._child.pid)
    assert time.perf_counter() - start < 1  # its imports take several
    assert process._ready is None


def test_only_a_checkpoint_never_seen_is_read(file: Path) -> None:
    assert zoo.must_read("ViT-B-32", str(file))
    assert zoo.must_read(f"ViT-B-32::{file}", None)
    assert known_sha256(file) is None
    digest = cached_sha256(file)
    assert known_sha256(file) == digest
    assert not zoo.must_read("ViT-B-32", str(file))
    file.write_bytes(b"other weights")
    assert zoo.must_read("ViT-B-32", str(file))
    for given in ("random:1", "openai", str(file.with_name("absent.pt"))):
        assert not zoo.must_read("ViT-B-32", given)
    assert not zoo.must_read("ViT-B-32", None)


def test_a_checkpoint_is_read_while_a_process_imports(file: Path, monkeypatch: Any) -> None:
    ready: list[bool] = []

    def export_model(*arguments: Any, **options: Any) -> None:
        ready.append(process._ready is not None)
        raise ExportError("far enough")

    monkeypatch.setattr("clipperf.export.exporters.onnx.export_model", export_model)
    for _ in range(2):  # the second time its digest is known
        done = CliRunner().invoke(app, ["export", "ViT-B-32", "--pretrained", str(file)])
        assert isinstance(done.exception, ExportError) and str(done.exception) == "far enough"
        assert process._ready is None
    assert ready == [True, False]
