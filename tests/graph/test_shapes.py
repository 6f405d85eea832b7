"""Sizes in a graph, by hand: what may be a constant, and what is read off the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from clipperf.engines.onnxruntime import cpu_session  # noqa: E402
from clipperf.graph import shapes  # noqa: E402

B, T = "batch", "tokens"


def model_of(
    nodes: list[Any], axes: dict[str, list[Any]], *constants: tuple[str, list[int]]
) -> Any:
    """A graph from float32 `x` to `y`; `axes` are those of its values, by name."""
    infos = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in axes.items()
    }
    graph = helper.make_graph(
        nodes,
        "graph",
        [infos["x"]],
        [infos["y"]],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants],
        value_info=[info for name, info in infos.items() if name not in "xy"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return ir.from_proto(model)


def run(model: Any, path: Path, x: np.ndarray) -> np.ndarray:
    ir.save(model, path)
    found: np.ndarray = cpu_session(path, 1).run(None, {"x": x})[0]
    return found


def sizes_read(axes: list[Any]) -> list[Any]:
    """The nodes by which torch's exporter collects a shape: one for each dynamic axis."""
    named = [axis for axis in axes if isinstance(axis, str)]
    found = [
        helper.make_node("Shape", ["x"], [axis], start=at, end=at + 1)
        for at, axis in enumerate([B, T])
        if axis in named
    ]
    parts = [axis if isinstance(axis, str) else f"c{axis}" for axis in axes]
    return [*found, helper.make_node("Concat", parts, ["shape"], axis=0)]


@pytest.mark.parametrize(
    ("given", "wanted", "constant"),
    [
        ([B, T, 6], [B, T, 2, 3], [0, 0, 2, 3]),
        ([B, T, 2, 3], [B, T, 6], [0, 0, 6]),
        ([B, T, 2, 3], [B, 6, T], [0, 6, -1]),  # moved: it is the rest
        ([B, T, 2, 3], [T, B, 6], None),  # two that moved
    ],
)
def test_a_reshape_says_by_constants_what_it_can(
    given: list[Any], wanted: list[Any], constant: list[int] | None, tmp_path: Path
) -> None:
    nodes = [
        *sizes_read(wanted),
        helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=1),
    ]
    model = model_of(
        nodes, {"x": given, "y": wanted}, *[(f"c{n}", [n]) for n in wanted if isinstance(n, int)]
    )
    x = np.arange(4 * 5 * 6, dtype=np.float32).reshape([{B: 4, T: 5}.get(a, a) for a in given])
    before = run(model, tmp_path / "before.onnx", x)
    shapes.reshape_by_constants(model)
    (reshape,) = [node for node in model.graph if node.op_type == "Reshape"]
    if constant is None:
        assert [node.op_type for node in model.graph].count("Shape") == 2
    else:
        assert [node.op_type for node in model.graph] == ["Reshape"]
        assert reshape.inputs[1].const_value.numpy().tolist() == constant
        assert "allowzero" not in reshape.attributes
    np.testing.assert_array_equal(run(model, tmp_path / "after.onnx", x), before)


def test_axes_without_a_name_are_not_taken_for_the_same(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "turned"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    model = model_of(nodes, {"x": [None, None], "y": [None, None]}, ("turned", [1, 0]))
    shapes.reshape_by_constants(model)
    assert run(model, tmp_path / "model.onnx", np.zeros((2, 3), np.float32)).shape == (3, 2)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (-3, -2), (1, 2), (-2, -1)])
def test_a_size_is_read_off_the_input(start: int, end: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("Shape", ["turned"], ["size"], start=start, end=end),
        helper.make_node("Cast", ["size"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": [B, T, 6], "turned": [T, B, 6], "y": [1]})
    x = np.zeros((4, 5, 6), np.float32)
    before = run(model, tmp_path / "before.onnx", x)
    shapes.sizes_of_input(model)
    (size,) = [node for node in model.graph if node.op_type == "Shape"]
    assert size.inputs[0].name == "x"
    np.testing.assert_array_equal(run(model, tmp_path / "after.onnx", x), before)


def test_other_sizes_stay_where_they_are(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["twice"], axis=0),
        helper.make_node("Shape", ["twice"], ["size"], start=0, end=1),
        helper.make_node("Cast", ["size"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": [B, 6], "twice": ["2*batch", 6], "y": [1]})
    shapes.sizes_of_input(model)
    assert run(model, tmp_path / "model.onnx", np.zeros((4, 6), np.float32)).tolist() == [8]


def test_slices_to_the_end_end_at_the_largest_int32(tmp_path: Path) -> None:
    nodes = [helper.make_node("Slice", ["x", "from", "to", "axis"], ["y"])]
    axes = {"x": [B, 6], "y": [B, 5]}
    end = np.iinfo(np.int64).max
    model = model_of(nodes, axes, ("from", [1]), ("to", [end]), ("axis", [1]))
    shapes.narrow_slices(model)
    assert model.graph.initializers["to"].const_value.numpy().tolist() == [2**31 - 1]
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(run(model, tmp_path / "model.onnx", x), x[:, 1:])
