"""The method of preprocessing that an artifact names: `clipperf export --preprocess`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, store_of
from PIL import Image

import clipperf
from clipperf.bench.prepare import model_request
from clipperf.errors import UsageError
from clipperf.evals.datasets import load_dataset
from clipperf.evals.evaluate import evaluate
from clipperf.evals.worker import open_model
from clipperf.export import folder as folders
from clipperf.export.folder import Exported, set_preprocess
from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.cell import Cell
from clipperf.nouns.variant import Variant
from clipperf.report.exported import exported_lines
from clipperf.system import files, store

pytest.importorskip("cykooz_resizer")


@pytest.fixture
def stocked(sample_artifact: Path, home: Path) -> Path:
    """The sample's folder in a store of this test alone."""
    return store_of(sample_artifact, home)


def exported(folder: Path) -> Exported:
    return Exported(folder, store.read_manifest(folder), ())


def photo() -> Image.Image:
    return Image.effect_noise((300, 200), 90).convert("RGB")


def test_the_method_is_in_the_folder_and_load_takes_it(stocked: Path) -> None:
    images = [photo()]
    with clipperf.load(stocked) as exact:
        reference = exact.encode_images(images)
    towers = store.read_manifest(stocked).towers
    done = set_preprocess(exported(stocked), "fast")
    assert done.manifest == store.read_manifest(stocked)
    assert done.manifest.preprocess["method"] == "fast"
    assert files.read_json(stocked / "preprocess.json") == done.manifest.preprocess
    assert done.manifest.towers == towers
    assert not store.check_files(stocked, done.manifest, content=True)
    assert "  images preprocessed by 'fast'" in exported_lines(done)
    with clipperf.load(stocked) as fast, clipperf.load(stocked, preprocess="exact") as again:
        assert fast.pixels is not None and fast.pixels.method == "fast"
        np.testing.assert_array_equal(again.encode_images(images), reference)
        difference = np.abs(fast.encode_images(images) - reference).max()
        assert 0 < difference < 0.02 * np.abs(reference).max()
    set_preprocess(done, "exact")
    assert files.read_json(stocked / "preprocess.json")["method"] == "exact"
    assert not any("preprocessed" in line for line in exported_lines(exported(stocked)))


def test_what_is_derived_prepares_exactly_until_it_is_told_otherwise(stocked: Path) -> None:
    pytest.importorskip("openvino")
    spec = zoo.resolve("clipperf-sample")
    set_preprocess(exported(stocked), "fast")
    derived = make(spec, ("image",), Variant("openvino"))
    assert derived.manifest.preprocess["method"] == "exact"
    assert set_preprocess(derived, "draft").manifest.preprocess["method"] == "draft"
    assert store.read_manifest(stocked).preprocess["method"] == "fast"


def test_a_kill_leaves_the_old_method(stocked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: Path, staging: Path, tower: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "_carry_over", killed)
    with pytest.raises(KeyboardInterrupt):
        set_preprocess(exported(stocked), "fast")
    manifest = store.read_manifest(stocked)
    assert manifest.preprocess["method"] == "exact"
    assert not store.check_files(stocked, manifest, content=True)


def test_eval_compares_with_exact_pytorch_and_says_so(
    stocked: Path, samples: str, tmp_path: Path
) -> None:
    set_preprocess(exported(stocked), "fast")
    spec = zoo.resolve("clipperf-sample")
    result, failures = evaluate(
        [spec],
        {"torch": "cpu", "onnx": "cpu"},
        load_dataset(samples),
        model_request,
        path=tmp_path / "eval.json",
    )
    assert not failures
    (note,) = result.notes
    assert "onnx fp32" in note and "'fast'" in note
    baseline = Cell(spec.id, "image", "torch", "fp32", "cpu", 1, 1)
    with open_model(model_request(baseline, spec, lambda stage: None)) as model:
        assert model.pixels is not None and model.pixels.method == "exact"


def test_export_from_the_command_line(cli: Cli, stocked: Path) -> None:
    done = cli("export", "clipperf-sample", "--preprocess", "fast", home=stocked.parents[3])
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout and "preprocessed by 'fast'" in done.stdout
    assert json.loads((stocked / "preprocess.json").read_text())["method"] == "fast"
    # Without the option it stays.
    done = cli("export", "clipperf-sample", home=stocked.parents[3])
    assert "preprocessed by 'fast'" in done.stdout
    done = cli("export", "clipperf-sample", "--preprocess", "fastest")
    assert done.returncode == 2 and "exact, fast, draft" in done.stderr
    with pytest.raises(UsageError, match="exact, fast, draft"):
        set_preprocess(exported(stocked), "fastest")
