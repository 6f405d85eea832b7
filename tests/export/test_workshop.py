"""The child processes of exports: many jobs in one, one started early, no trace of a dead one."""

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
from clipperf.export.workshop import Worker, Workshop
from clipperf.models import zoo
from clipperf.nouns.model import ModelSpec
from clipperf.system.store import cached_sha256, known_sha256


def fetch(worker: Worker | Workshop, pretrained: Path | str, what: str = "it") -> dict[str, Any]:
    """A job that needs no torch: the file of a model's weights."""
    spec = ModelSpec("m", "open_clip", "ViT-B-32", str(pretrained), 224, 77, 512)
    return worker.run("fetch", what, spec=spec)


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
        assert fetch(worker, file) == {"path": str(file)}
        pytest.importorskip("open_clip")
        with pytest.raises(WeightsError, match="nobody"):
            fetch(worker, "nobody")
        assert fetch(worker, file) == {"path": str(file)}
        assert not gone(worker.pid)
    assert gone(worker.pid)


def test_a_process_that_dies_is_told_from_one_that_fails(file: Path) -> None:
    with (
        Worker() as worker,
        pytest.raises(ExportError, match=r"model x: .*died.*killed by SIGKILL \(the kernel"),
    ):
        fetch(worker, file, "model x")
        os.kill(worker.pid, signal.SIGKILL)
        fetch(worker, file, "model x")
    with pytest.raises(ExportError, match=r"model y: KeyError: 'never'$"):
        Workshop().run("never", "model y")


def test_a_crash_is_told_by_its_reason(file: Path) -> None:
    with (
        Worker() as worker,
        pytest.raises(ExportError, match=r"killed by SIGSEGV: Fatal Python error: Segm"),
    ):
        fetch(worker, file)
        os.kill(worker.pid, signal.SIGSEGV)
        time.sleep(0.5)  # it has said why, before anybody asks
        fetch(worker, file)


def test_a_module_in_the_working_directory_is_not_imported(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("psutil", "json", "types", "queue", "random", "onnx", "torch", "clipperf"):
        (tmp_path / f"{name}.py").write_text("print('stray'); raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert fetch(Workshop(), file) == {"path": str(file)}


def test_the_first_job_with_torch_takes_the_process_that_was_started_early(file: Path) -> None:
    pytest.importorskip("open_clip")
    with Workshop() as workshop:
        ready = workshop.start_early()
        with workshop.worker(torch=True) as first:
            assert first is ready
            assert fetch(first, file) == {"path": str(file)}
        assert gone(ready.pid)
        with workshop.worker(torch=True) as second:
            assert second is not ready
    with Workshop() as workshop:
        ready = workshop.start_early()
        assert fetch(workshop, file, "other work") == {"path": str(file)}
        assert not gone(ready.pid)
        workshop.dismiss()
        assert gone(ready.pid)


@pytest.mark.timing
def test_a_process_that_nobody_took_is_killed_at_once() -> None:
    with pytest.raises(UsageError), Workshop() as workshop:
        ready = workshop.start_early()
        start = time.perf_counter()
        raise UsageError("no such model")
    assert gone(ready.pid)
    assert time.perf_counter() - start < 1  # its imports take several
    assert workshop.ready is None


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
    pids: list[int] = []

    def make(*arguments: Any, workshop: Workshop, **options: Any) -> None:
        ready.append(workshop.ready is not None)
        pids.extend([workshop.ready.pid] if workshop.ready else [])
        raise ExportError("far enough")

    monkeypatch.setattr("clipperf.export.make.make", make)
    for _ in range(2):  # the second time its digest is known
        done = CliRunner().invoke(app, ["export", "ViT-B-32", "--pretrained", str(file)])
        assert isinstance(done.exception, ExportError) and str(done.exception) == "far enough"
    assert ready == [True, False]
    assert gone(pids[0])
