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
    judge.probes, judge.few = probes, [probe[::4] for probe in probes]
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
    assert shown == [[4, 4, 4, 1], [2, 2]]


def rounded(value: object, to: float) -> object:
    """A value rounded to multiples of a step, in 255 of them."""
    from openvino import opset13 as ops

    most = np.float32(to * 127)
    return ops.fake_quantize(value, -most - np.float32(to), most, -most - np.float32(to), most, 256)


def test_a_layer_that_is_kept_reads_what_was_not_rounded_and_others_go_on() -> None:
    """Two products read one rounded value, one of them moved; only the one is freed."""
    from openvino import Model
    from openvino import opset13 as ops

    given = ops.parameter([2, 2], np.float32)
    whole = rounded(given, 1.0)
    weight = ops.constant(np.array([[0.25, 0.0], [0.0, 1.0]], np.float32))
    moved = ops.matmul(ops.transpose(whole, [1, 0]), rounded(weight, 1.0), False, False)
    plain = ops.matmul(whole, rounded(weight, 1.0), False, False)
    moved.set_friendly_name("moved")
    plain.set_friendly_name("plain")
    model = Model([ops.result(moved), ops.result(plain)], [given])

    def run() -> list[np.ndarray]:
        compiled = library().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return list(compiled(np.array([[1.4, 2.4], [3.4, 4.4]], np.float32)).values())

    before_moved, before_plain = run()
    np.testing.assert_array_equal(before_moved, [[0, 3], [0, 4]])
    np.testing.assert_array_equal(before_plain, [[0, 2], [0, 4]])
    openvino.free(moved)
    after_moved, after_plain = run()
    np.testing.assert_allclose(after_moved, [[0.35, 3.4], [0.6, 4.4]], rtol=1e-6)
    np.testing.assert_array_equal(after_plain, before_plain)
