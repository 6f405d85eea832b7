"""Evaluations in child processes: what opening leaves behind, and what a crash costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, Install

import clipperf
from clipperf.engines import onnxruntime
from clipperf.errors import EngineError
from clipperf.evals import worker
from clipperf.evals.datasets import load_dataset
from clipperf.evals.evaluate import evaluate
from clipperf.evals.task import Embeddings
from clipperf.evals.worker import ModelRequest, open_model, read_preprocessing
from clipperf.export.derived import QuantizeSettings
from clipperf.export.job import Job
from clipperf.export.jobs import derive
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import SIDES, Variant
from clipperf.serialize import to_json
from clipperf.system import files, store

SPEC = zoo.resolve("clipperf-sample")


def source(folder: Path, runtime: str = "onnx", script: Path | None = None) -> ModelRequest:
    """What opens the sample's towers in a runtime, or engines that do what a script says."""
    requests = []
    for side in SIDES:
        cell = Cell(SPEC.id, side, runtime, "fp32", "cpu", 8, 1)
        requests.append(EngineRequest(cell, SPEC, str(script or folder / side / "model.onnx")))
    return ModelRequest(folder, tuple(requests))


# --- engines are closed whatever happens -----------------------------------------------------


def judged(folder: Path, samples: str) -> object:
    variant = Variant("onnx", "int8")
    job = Job("quantized", SPEC, "image", variant, "", "", (str(folder),), threads=1, min_cosine=0)
    return derive._judge(job, QuantizeSettings(samples))


OPENERS: dict[str, Callable[[Path, str], object]] = {
    "eval": lambda folder, samples: open_model(source(folder)),
    "load": lambda folder, samples: clipperf.load(folder),
    "judge": judged,
}


@pytest.mark.parametrize("opener", OPENERS)
def test_an_engine_that_cannot_be_opened_leaves_none_open(
    opener: str, sample_artifact: Path, samples: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    open_session = onnxruntime.open_session

    def second_fails(*args: Any, **options: Any) -> Any:
        if events:
            raise EngineError("no second one today")
        engine = open_session(*args, **options)
        close = engine.close
        monkeypatch.setattr(engine, "close", lambda: (events.append("closed"), close()))
        events.append("opened")
        return engine

    monkeypatch.setattr(onnxruntime, "open_session", second_fails)
    with pytest.raises(EngineError, match="no second one today"):
        OPENERS[opener](sample_artifact, samples)
    assert events == ["opened", "closed"]


# --- a model's process ------------------------------------------------------------------------


def test_embeddings_cross_as_they_are(tmp_path: Path) -> None:
    found = Embeddings(np.eye(3, dtype=np.float32), {"any name": np.ones((2, 3), np.float32)})
    worker.save(found, tmp_path / "e.npz")
    again = worker.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(again.images, found.images)
    assert list(again.texts) == ["any name"]
    np.testing.assert_array_equal(again.texts["any name"], found.texts["any name"])


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"fail_at": "run", "how": "segfault"}, "killed by SIGSEGV"),
        ({"fail_at": "load", "how": "signal", "exit_code": 9}, "when RAM runs out"),
        ({"fail_at": "run", "how": "exit", "exit_code": 3}, "exit code 3"),
        ({"fail_at": "run", "how": "raise"}, "did not translate"),
        ({"fail_at": "run", "how": "nan"}, "the tower gives values that are not finite"),
    ],
)
def test_a_runtime_that_crashes_is_a_failed_row_and_the_others_go_on(
    script: dict[str, Any],
    words: str,
    sample_artifact: Path,
    samples: str,
    tmp_path: Path,
    home: Path,
) -> None:
    (tmp_path / "script.json").write_text(json.dumps(script))
    told: list[tuple[str, int, int]] = []

    def prepare(cell: Cell, spec: ModelSpec, on_stage: Callable[[str], None]) -> ModelRequest:
        if cell.runtime == "simulated":
            return source(sample_artifact, "simulated", tmp_path / "script.json")
        return source(sample_artifact)

    result, failures = evaluate(
        [SPEC],
        dict.fromkeys(("torch", "simulated", "onnx"), "cpu"),
        load_dataset(samples),
        prepare,
        batch=8,
        path=tmp_path / "eval.json",
        progress=lambda *at: told.append(at),
    )
    (failure,) = failures
    assert "simulated fp32" in failure.label and words in failure.reason
    assert {score.cell.runtime for score in result.scores} == {"torch", "onnx"}
    assert told[-3:] == [("images", 16, 24), ("images", 24, 24), ("captions", 24, 24)]


FRAGILE = """
import ctypes
from dataclasses import replace
from clipperf.engines.runtimes.onnx import RUNTIME as onnx

RUNTIME = replace(onnx, name="fragile", open=lambda request: ctypes.string_at(0))
"""


def test_the_command_reports_a_crash_and_scores_the_rest(
    install: Install, cli: Cli, sample_artifact: Path, samples: str, tmp_path: Path
) -> None:
    install("toys", FRAGILE, {"clipperf.runtime": {"fragile": "toys:RUNTIME"}})
    done = cli(
        *("eval", "clipperf-sample", "--runtime", "fragile,onnx", "--dataset", samples, "-q"),
        *("--json", tmp_path / "eval.json"),
        home=sample_artifact.parents[3],
    )
    assert done.returncode == 1
    assert "failed: clipperf-sample image fragile fp32 cpu batch 32: " in done.stderr
    assert "SIGSEGV" in done.stderr
    scores = store.read_result(tmp_path / "eval.json").scores
    assert {score.cell.runtime for score in scores} == {"torch", "onnx"}


def test_the_baseline_borrows_a_folder_and_preprocesses_exactly(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = replace(worker.read_pixels(sample_artifact), method="fast")
    monkeypatch.setattr(worker, "read_pixels", lambda folder: pixels)
    assert read_preprocessing(source(sample_artifact)).method == "fast"
    assert read_preprocessing(source(sample_artifact, "torch")).method == "exact"


def test_a_dataset_of_any_size_reaches_its_child(
    sample_artifact: Path, samples: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of files of unknown origin is none for what the parent has just written."""
    monkeypatch.setattr(files, "MOST_JSON_BYTES", 10**5)
    dataset = tmp_path / "dataset.json"
    files.write_json(dataset, replace(load_dataset(samples), notes=("x" * 10**5,)))
    fields = {
        "dataset": str(dataset),
        "model": to_json(source(sample_artifact)),
        "batch": 8,
        "target": str(tmp_path / "embeddings.npz"),
    }
    worker.embed(fields, lambda told: None)
    assert len(worker.load(tmp_path / "embeddings.npz").images) == 24
