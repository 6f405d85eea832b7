"""fp16 graphs emulated and partly kept in fp32, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from clipperf.errors import UnsupportedError  # noqa: E402
from clipperf.export.judge.halves import emulate  # noqa: E402
from clipperf.graph import halves  # noqa: E402


def written(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], output: str
) -> Path:
    """A graph in fp16 between a float32 input "x" [rows, 2] and the float32 output "y"."""
    cast = helper.make_node
    whole = [
        cast("Cast", ["x"], ["x16"], name="enter", to=TensorProto.FLOAT16),
        *nodes,
        cast("Cast", [output], ["y"], name="leave", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        whole,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def half(*values: float) -> np.ndarray:
    return np.array(values, np.float16)


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """y = (300 x)^2 / 10,000 = 9 x^2: the square passes 65,504 from x = 0.86 on."""
    make = helper.make_node
    nodes = [
        make("Mul", ["x16", "factor"], ["times"], name="scale"),
        make("Mul", ["times", "times"], ["square"], name="power"),
        make("Div", ["square", "by"], ["less"], name="divide"),
    ]
    weights = {"factor": half(300), "by": half(10_000)}
    return written(tmp_path / "squares.onnx", nodes, weights, "less")


def run(path: Path, rows: np.ndarray) -> np.ndarray:
    """In ONNX Runtime, no cast of the graph taken away; what has no kernel in fp16 runs in fp32."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": rows})
    return found


ROWS = np.array([[0.5, 1.0], [2.0, -0.25], [0.125, 0.0]], np.float32)


def test_an_emulation_says_what_overflows_and_how_far_rounding_leads(squares: Path) -> None:
    found = emulate(squares, ROWS, threads=1)
    assert found.exact.tolist() == [[2.25, 9.0], [36.0, 0.5625], [0.140625, 0.0]]
    infinite = np.array([[False, True], [True, False], [False, False]])
    assert np.isinf(found.rounded).tolist() == infinite.tolist()
    np.testing.assert_allclose(found.rounded[~infinite], found.exact[~infinite], rtol=2**-10)
    assert found.largest == {"x16": 2.0, "times": 600.0, "square": 360_000.0, "less": 36.0}
    assert found.apart["x16"] == found.apart["times"] == 0
    assert found.apart["square"] == np.inf


def test_what_is_kept_in_fp32_does_not_overflow(squares: Path) -> None:
    assert halves.keep_in_fp32(squares, {"square", "no such tensor"}) == ("power",)
    model = onnx.load(squares)
    onnx.checker.check_model(model, full_check=True)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert set(kinds.values()) == {TensorProto.FLOAT16}, "weights stay"
    assert halves.half_tensors(squares) == ["x16", "times", "less"]
    np.testing.assert_allclose(run(squares, ROWS), 9 * ROWS**2, rtol=2**-10)
    found = emulate(squares, ROWS, threads=1)
    assert np.isfinite(found.rounded).all()
    assert "square" not in found.largest
    assert halves.keep_in_fp32(squares, {"square"}) == (), "it is fp32 by now"


def test_casts_and_shapes_beside_what_is_kept(tmp_path: Path) -> None:
    """A cast that gives it, a cast and a Shape that read it, and two outputs of one operator."""
    make = helper.make_node
    nodes = [
        make("Cast", ["x16"], ["x32"], name="up", to=TensorProto.FLOAT),
        make("Mul", ["x32", "many"], ["large32"], name="grow"),
        make("Cast", ["large32"], ["large"], name="down", to=TensorProto.FLOAT16),
        make("Shape", ["large"], ["shape"], name="shape"),
        make("Split", ["large"], ["left", "right"], name="split", axis=1, num_outputs=2),
        make("Concat", ["right", "left"], ["turned"], name="turn", axis=1),
        make("Reshape", ["turned", "shape"], ["same"], name="again"),
        make("Div", ["same", "by"], ["less"], name="divide"),
    ]
    weights = {"many": np.array([200_000], np.float32), "by": half(50_000)}
    path = written(tmp_path / "casts.onnx", nodes, weights, "less")
    rows = np.array([[1.0, 0.25]], np.float32)
    assert run(path, rows).tolist() == [[1.0, np.inf]]
    found = emulate(path, rows, threads=1).largest
    wide = {name for name, size in found.items() if size > halves.LARGEST}
    assert wide == {"large", "left", "turned", "same"}
    assert halves.keep_in_fp32(path, wide) == ("down", "split", "turn", "again")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert run(path, rows).tolist() == [[1.0, 4.0]]
    assert halves.half_tensors(path) == ["x16", "right", "less"]


def test_masks_are_meant_to_be_large(tmp_path: Path) -> None:
    make = helper.make_node
    nodes = [
        make("Mul", ["x16", "times"], ["logits"], name="scale"),
        make("Add", ["logits", "mask"], ["masked"], name="hide"),
        make("Softmax", ["masked"], ["shares"], name="softmax", axis=-1),
        make("Add", ["shares", "logits"], ["sum"], name="sum"),
    ]
    weights = {"times": half(100), "mask": half(-np.inf, 0)}
    path = written(tmp_path / "masked.onnx", nodes, weights, "sum")
    assert halves.masking(onnx.load(path).graph) == {"masked"}
    found = emulate(path, np.array([[1, -2]], np.float32), threads=1)
    assert found.largest == {"x16": 2, "logits": 200, "masked": 0, "shares": 1, "sum": 199}
    assert found.exact.tolist() == found.rounded.tolist() == [[100, -199]]
    assert halves.of_kind(path, "logits") == {"masked"}
    weights["mask"] = half(-65504, 0)
    path = written(tmp_path / "least.onnx", nodes, weights, "sum")
    found = emulate(path, np.array([[-1, -2]], np.float32), threads=1)  # -65,604 is -inf in fp16
    assert found.largest["masked"] == -200
    assert found.rounded.tolist() == [[-100, -199]]


def test_kinds_of_tensors(tmp_path: Path) -> None:
    make = helper.make_node
    nodes = [
        make("Add", ["x16", "x16"], ["stream"], name="first"),
        make("LayerNormalization", ["stream", "one"], ["normed"], name="norm"),
        make("Add", ["stream", "normed"], ["plain"], name="second"),
        make("Mul", ["plain", "one"], ["scaled"], name="scale"),
        make("LayerNormalization", ["scaled", "one"], ["last"], name="norm2"),
    ]
    path = written(tmp_path / "kinds.onnx", nodes, {"one": half(1, 1)}, "last")
    assert halves.of_kind(path, "sums") == {"stream"}
    assert halves.of_kind(path, "norms") == {"stream", "scaled"}
    assert halves.of_kind(path, "logits") == set()
    everything = halves.of_kind(path, "norms")
    assert halves.keep_in_fp32(path, everything) == ("first", "scale")
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_lengths_count_squared_and_typed_operators_stay(tmp_path: Path) -> None:
    make = helper.make_node
    one = onnx.numpy_helper.from_array(half(3), "one")
    nodes = [
        make("Shape", ["x16"], ["shape"], name="shape"),
        make("ConstantOfShape", ["shape"], ["threes"], name="threes", value=one),
        make("Mul", ["x16", "threes"], ["large"], name="grow"),
        make("ReduceL2", ["large", "last"], ["length"], name="length"),
        make("Div", ["large", "length"], ["unit"], name="unit"),
    ]
    path = written(tmp_path / "length.onnx", nodes, {"last": np.array([-1], np.int64)}, "unit")
    rows = np.array([[90, 120]], np.float32)
    found = emulate(path, rows, threads=1)
    assert found.largest == {
        "x16": 120, "threes": 3, "large": 360, "length": 450.0**2, "unit": pytest.approx(0.8)
    }  # fmt: skip
    kept = halves.keep_in_fp32(path, {"threes", "large", "length"})
    assert kept == ("grow", "length")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    np.testing.assert_allclose(run(path, rows), [[0.6, 0.8]], rtol=1e-3)


def test_a_graph_with_branches_is_refused_in_words(tmp_path: Path) -> None:
    make, value = helper.make_node, helper.make_tensor_value_info
    branch = helper.make_graph(
        [make("Identity", ["x16"], ["same"])], "b", [], [value("same", TensorProto.FLOAT16, None)]
    )
    weights = {"yes": np.array(True)}
    nodes = [make("If", ["yes"], ["out"], then_branch=branch, else_branch=branch)]
    path = written(tmp_path / "if.onnx", nodes, weights, "out")
    with pytest.raises(UnsupportedError, match=r"branches.*bf16 or fp32"):
        emulate(path, ROWS, threads=1)
