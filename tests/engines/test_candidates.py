"""The order in which candidates are tried, on processors that the tests choose."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from conftest import Become
from processors import AMX, AVX2

from clipperf.engines import candidates, contract, processor
from clipperf.nouns.variant import PRECISIONS, SIDES

BOTH = {"onnx": "cpu", "openvino": "cpu"}


def order(precisions: Sequence[str] | None = None) -> list[tuple[str, str]]:
    return [(each.runtime, each.precision) for each in candidates.candidates(BOTH, precisions)]


def test_the_measured_come_first_by_their_speed(
    become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {
        "AMX": {
            "image": {
                ("openvino", "int8-bf16"): 6.0, ("onnx", "int8"): 4.0, ("openvino", "bf16"): 5.0,
            },
        },
        "AVX2": {
            "image": {("onnx", "int8"): 2.0, ("openvino", "fp32"): 1.5, ("onnx", "fp32"): 1.2},
        },
    }  # fmt: skip
    monkeypatch.setattr(candidates, "MEASURED", table)
    become(AMX)
    assert order()[:3] == [("openvino", "int8-bf16"), ("openvino", "bf16"), ("onnx", "int8")]
    # What was not measured comes behind, in the order of `tune`.
    assert order()[3:] == [
        ("openvino", "int8"), ("onnx", "int8-static"), ("openvino", "int8w"),
        ("onnx", "fp32"), ("openvino", "fp32"),
    ]  # fmt: skip
    become(AVX2)
    assert order()[:4] == [
        ("onnx", "int8"), ("openvino", "fp32"), ("onnx", "fp32"), ("openvino", "int8-bf16"),
    ]  # fmt: skip
    become(())
    assert order(["fp32", "int8"]) == [
        ("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8"), ("openvino", "int8"),
    ]  # fmt: skip


def test_every_measured_figure_is_of_a_candidate() -> None:
    assert set(candidates.MEASURED) == set(processor.KINDS)
    for kind, towers in candidates.MEASURED.items():
        assert "image" in towers and set(towers) <= set(SIDES)
        figures = {pair for table in towers.values() for pair in table}
        for runtime, precision in figures:
            assert precision in contract.get(runtime).precisions
            assert "cpu" in PRECISIONS.get(precision).tune
            assert kind != "AVX2" or not PRECISIONS.get(precision).instructions


def test_a_tower_has_an_order_of_its_own_and_both_share_the_mean(
    become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8, fp32, alone = ("onnx", "int8"), ("openvino", "fp32"), ("onnx", "fp32")
    table = {
        "AVX2": {
            "image": {int8: 2.0, fp32: 3.0, alone: 9.0},
            "text": {int8: 8.0, fp32: 4.0},
        },
        "AMX": {"image": {fp32: 3.0, int8: 2.0}},
    }
    monkeypatch.setattr(candidates, "MEASURED", table)
    become(AVX2)

    def first(*sides: str) -> list[tuple[str, str, float | None]]:
        found = candidates.candidates(BOTH, ["int8", "fp32"], sides)
        return [(each.runtime, each.precision, each.times) for each in found]

    assert first("image")[:3] == [(*alone, 9.0), (*fp32, 3.0), (*int8, 2.0)]
    assert first("text")[:2] == [(*int8, 8.0), (*fp32, 4.0)]
    # Both: the square roots of 2 x 8 and 3 x 4; what one of them lacks is not measured.
    both = first("image", "text")
    assert both[0] == (*int8, pytest.approx(4)) and both[1] == (*fp32, pytest.approx(12**0.5))
    assert (*alone, None) in both
    of_both = "geometric mean of ViT-B-32 images and texts of 8 tokens, which PyTorch takes padded "
    assert candidates.measured_with() == f"{of_both}to 77, batch 8, two cores"
    assert candidates.measured_with(["text"]).startswith("ViT-B-32 texts of 8 tokens, ")
    # Where texts were not measured the order of images is theirs.
    become(AMX)
    assert first("text")[0] == (*fp32, 3.0) and first("image", "text")[0] == (*fp32, 3.0)
    assert candidates.measured_with(["text"]).startswith("ViT-B-32 images, ")


def test_on_a_gpu_nothing_is_measured_yet() -> None:
    found = candidates.candidates({"trt": "cuda", "ort-cuda": "cuda"})
    assert [each.times for each in found] == [None] * len(found)
    assert [each.precision for each in found][:3] == ["fp16", "fp16", "tf32"]
    assert candidates.usable(["trt"], "abacus") == {}
