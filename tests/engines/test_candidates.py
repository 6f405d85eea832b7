"""The order in which candidates are tried, on processors that the tests choose."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from conftest import Become
from processors import AMX, AVX2

from clipperf.engines import candidates, contract, processor
from clipperf.nouns.variant import PRECISIONS

BOTH = {"onnx": "cpu", "openvino": "cpu"}


def order(precisions: Sequence[str] | None = None) -> list[tuple[str, str]]:
    return [(each.runtime, each.precision) for each in candidates.candidates(BOTH, precisions)]


def test_the_measured_come_first_by_their_speed(
    become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {
        "AMX": {("openvino", "int8-bf16"): 6.0, ("onnx", "int8"): 4.0, ("openvino", "bf16"): 5.0},
        "AVX2": {("onnx", "int8"): 2.0, ("openvino", "fp32"): 1.5, ("onnx", "fp32"): 1.2},
    }
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
    for table in candidates.MEASURED.values():
        for runtime, precision in table:
            assert precision in contract.get(runtime).precisions
            assert "cpu" in PRECISIONS.get(precision).tune
    for kind in ("AVX2",):
        assert not any(PRECISIONS.get(p).instructions for _, p in candidates.MEASURED[kind])


def test_on_a_gpu_nothing_is_measured_yet() -> None:
    found = candidates.candidates({"trt": "cuda", "ort-cuda": "cuda"})
    assert [each.times for each in found] == [None] * len(found)
    assert [each.precision for each in found][:3] == ["fp16", "fp16", "tf32"]
    assert candidates.usable(["trt"], "abacus") == {}
