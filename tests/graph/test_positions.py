"""The end token is found among floats: by hand, and at ids that no float16 could tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from clipperf.engines.onnxruntime import cpu_session  # noqa: E402
from clipperf.graph import positions  # noqa: E402


def searched(op_type: str, dtype: int) -> Any:
    nodes = [helper.make_node(op_type, ["x"], ["y"], axis=1, keepdims=0)]
    shapes = [
        helper.make_tensor_value_info("x", dtype, ["batch", "tokens"]),
        helper.make_tensor_value_info("y", TensorProto.INT64, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "graph", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(model)


@pytest.mark.parametrize(
    ("dtype", "kind"), [(TensorProto.INT64, np.int64), (TensorProto.INT32, np.int32)]
)
@pytest.mark.parametrize(("op_type", "expected"), [("ArgMax", [2, 0, 1]), ("ArgMin", [0, 2, 0])])
def test_positions_are_the_same(
    tmp_path: Path, op_type: str, expected: list[int], dtype: int, kind: type
) -> None:
    model = searched(op_type, dtype)
    positions.search_in_floats(model)
    assert [node.op_type for node in model.graph] == ["Cast", op_type]
    ir.save(model, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    # 2**24 and below are exact in float32; float16 ends at 65,504 and rounds 49,407 to 49,408.
    ids = [[49405, 49406, 49407], [2**24, 2**24 - 1, 1], [0, 7, 7]]
    found = cpu_session(tmp_path / "m.onnx", 1).run(None, {"x": np.array(ids, kind)})[0]
    assert found.tolist() == expected, "the first of equals"


def test_two_that_search_one_value_share_its_floats(tmp_path: Path) -> None:
    nodes = [
        helper.make_node(op_type, ["x"], [name], axis=1, keepdims=0)
        for op_type, name in (("ArgMax", "first"), ("ArgMax", "again"), ("ArgMin", "least"))
    ]
    given = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", "tokens"])
    found = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"])
        for name in ("first", "again", "least")
    ]
    graph = helper.make_graph(nodes, "graph", [given], found)
    opset = [helper.make_opsetid("", 20)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))
    positions.search_in_floats(model)
    assert [node.op_type for node in model.graph] == ["Cast", "ArgMax", "ArgMax", "ArgMin"]
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(names) == len({*names})
    ir.save(model, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    ids = np.array([[49405, 49407, 49406]])
    answers = cpu_session(tmp_path / "m.onnx", 1).run(None, {"x": ids})
    assert [answer.tolist() for answer in answers] == [[1], [1], [0]]


def test_floats_stay_as_they_are() -> None:
    model = searched("ArgMax", TensorProto.FLOAT)
    positions.search_in_floats(model)
    assert [node.op_type for node in model.graph] == ["ArgMax"]


@pytest.mark.parametrize("dtype", [TensorProto.INT64, TensorProto.INT32])
def test_the_end_is_found_where_floats_are_rounded_to_bf16(tmp_path: Path, dtype: int) -> None:
    """To bf16 49,280 and what follows are one number: only counted from the end they differ."""
    openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
    rows = 49408
    table = np.arange(rows, dtype=np.float32)[:, None] % 7
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "x"], ["vectors"], axis=0),
            helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0),
        ],
        "graph",
        [info("x", dtype, ["batch", "tokens"])],
        [
            info("y", TensorProto.INT64, ["batch"]),
            info("vectors", TensorProto.FLOAT, ["batch", "tokens", 1]),
        ],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    opset = [helper.make_opsetid("", 20)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))
    positions.search_in_floats(model)
    assert [node.op_type for node in model.graph] == ["Gather", "Sub", "Cast", "ArgMax"]
    path = tmp_path / "m.onnx"
    ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    kind = np.int64 if dtype == TensorProto.INT64 else np.int32
    ids = np.array([[49406, 49405, 49280, 49407], [49399, 49407, 0, 0], [49407, 5, 6, 7]], kind)
    expected = [3, 1, 0]
    assert cpu_session(path, 1).run(None, {"x": ids})[0].tolist() == expected
    for floats in ("f32", "bf16"):
        hint = {"INFERENCE_PRECISION_HINT": floats}
        compiled = openvino.Core().compile_model(path, "CPU", hint)
        assert compiled(ids)[0].tolist() == expected, floats
        rounded = ids.astype(np.float32).view(np.uint32) + 0x8000 >> 16  # to bf16, as it was
        assert rounded[0].max() == rounded[0].min(), "no float of 8 bits tells these apart"
