"""What OpenVINO's quantiser is given to quantise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from patch_graph import PIXELS, tower

pytest.importorskip("openvino", reason="needs the extra openvino")

from clipperf.engines.openvino import library
from clipperf.export.job import Job
from clipperf.export.jobs import openvino
from clipperf.export.judge.drift import Judge
from clipperf.models import zoo
from clipperf.nouns.variant import Variant


def kinds(model: object) -> list[str]:
    return [op.get_type_name() for op in model.get_ordered_ops()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("beside", [False, True], ids=["inside", "beside"])
def test_patches_are_a_product_and_weights_stay_where_they_are(
    beside: bool, tmp_path: Path
) -> None:
    source, scratch = tmp_path / "model.onnx", tmp_path / "scratch"
    onnx.save(
        tower(), source, save_as_external_data=beside, location="model.onnx.data", size_threshold=0
    )
    scratch.mkdir()
    changed = openvino.with_product(source, scratch)
    assert changed.parent == scratch
    if beside:
        assert (scratch / "model.onnx.data").samefile(tmp_path / "model.onnx.data")
    core = library().Core()
    before, after = core.read_model(source), core.read_model(changed)
    assert "Convolution" in kinds(before) and "Convolution" not in kinds(after)
    pixels = np.random.default_rng(0).normal(size=(2, 3, *PIXELS)).astype(np.float32)
    expected, found = (
        core.compile_model(each, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels)[0]
        for each in (before, after)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_text_tower_is_read_as_it_is(sample_artifact: Path, tmp_path: Path) -> None:
    source = sample_artifact / "text" / "model.onnx"
    assert openvino.with_product(source, tmp_path) == source
    assert list(tmp_path.iterdir()) == []


def test_layers_are_compared_by_a_quarter_of_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both towers are in int8, with the scales of the samples that they were shown."""
    nncf = pytest.importorskip("nncf", reason="needs the extra openvino")
    source = tmp_path / "source.onnx"
    onnx.save(tower(), source)
    chance = np.random.default_rng(0)
    probes = [chance.normal(size=(n, 3, *PIXELS)).astype(np.float32) for n in (8, 5)]
    judge = Judge.__new__(Judge)
    judge.probes = probes
    job = Job(
        exporter="openvino", spec=zoo.resolve("clipperf-sample"), side="image",
        variant=Variant("openvino", "int8"), folder=str(tmp_path),
        file=str(tmp_path / "model.xml"), sources=(str(tmp_path),), threads=1, min_cosine=0.99,
    )  # fmt: skip
    shown: list[list[int]] = []

    class Counted(nncf.Dataset):  # type: ignore[misc]
        def __init__(self, items: list[np.ndarray]) -> None:
            shown.append([len(item) for item in items])
            super().__init__(items)

    monkeypatch.setattr(nncf, "Dataset", Counted)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = openvino.OpenVinoQuantizer(source, judge, job, scratch)
    for rough in (False, True):
        made.write((), tmp_path / f"{rough}.xml", rough)
        assert "FakeQuantize" in kinds(library().Core().read_model(tmp_path / f"{rough}.xml"))
    assert shown == [[8, 5], [2, 2]]
