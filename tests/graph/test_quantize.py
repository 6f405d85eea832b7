"""Quantised graphs beside the one that they were made from."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Become
from onnx import TensorProto, helper, numpy_helper

from clipperf.graph.quantize import quantized, weight_bits, weight_max
from clipperf.nouns.variant import PRECISIONS

NAMES = ("one", "zero", "last", "step", "least", "rows_of_64", "quantised_one")


@pytest.mark.parametrize("hidden", NAMES)
def test_a_graphs_own_names_are_left_to_it(hidden: str) -> None:
    """Two layers by rows, between them a value that is called as a constant might be."""
    chance = np.random.default_rng(0)
    weights = {
        name: numpy_helper.from_array(chance.normal(size=(64, 64)).astype(np.float32), name)
        for name in ("first", "second")
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], [hidden], "one node"),
            helper.make_node("MatMul", [hidden, "second"], ["y"], "another"),
        ],
        "toy",
        [value("x", TensorProto.FLOAT, ["batch", 64])],
        [value("y", TensorProto.FLOAT, ["batch", 64])],
        list(weights.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    made = quantized(model, "rows")
    assert {node.op_type for node in made.graph.node} >= {"MatMulIntegerToFloat"}
    given = chance.normal(size=(5, 64)).astype(np.float32)
    found, expected = (
        onnxruntime.InferenceSession(
            each.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"x": given})[0]
        for each in (made, model)
    )
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 0.05, "eight bits"
    onnx.checker.check_model(model)


def test_weights_for_any_machine_have_seven_bits_on_this_one(become: Become) -> None:
    int8, on_gpus = PRECISIONS.get("int8"), PRECISIONS.get("int8-fp16")
    for flags in ((), ("avx2",), ("avx512_vnni",)):
        become(flags)
        assert (weight_max(int8, portable=True), weight_bits(int8, portable=True)) == (63, 7)
        assert weight_max(on_gpus, portable=True) == 127
    assert weight_max(int8) == 127
