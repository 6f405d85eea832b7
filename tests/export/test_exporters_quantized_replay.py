"""Pairs of QuantizeLinear and DequantizeLinear, computed one by one as TensorRT means them.

A replay is ONNX Runtime with every optimisation off: it rounds, turns back, and multiplies floats.
Beside it stands the same arithmetic in numpy, from ONNX's text of the two operators.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from conftest import Become
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from clipperf.drift import drift_of
from clipperf.engines.onnxruntime import cpu_session
from clipperf.export.derived import QuantizeSettings
from clipperf.export.judge import parity
from clipperf.export.make import make
from clipperf.graph import quantize
from clipperf.models import zoo
from clipperf.nouns.artifact import Artifact, reference_name
from clipperf.nouns.variant import PRECISIONS, Side, Variant
from clipperf.serve.parity_inputs import parity_inputs

SPEC = zoo.resolve("clipperf-sample")
LARGEST = {"int8-fp16": 127, "fp8": 448, "int8-static": 127}
CASES: list[tuple[str, Side]] = [
    ("int8-fp16", "text"),
    ("int8-fp16", "image"),  # with convolutions
    ("fp8", "text"),
    ("int8-static", "text"),
]

SAME_COSINE = 0.99999
"""Least cosine of two ways to compute one graph.

They differ in the order of sums and the last bits of floats; now and then that takes a value over
the middle between two steps. Eight bits cost 2e-4 and more here (1 - `parity.min_cosine`), and a
wrong scale, axis or zero point more than that, so that 1e-5 leaves nothing to hide in. Seen: 1e-13.
"""


# --- the arithmetic, in numpy --------------------------------------------------------------


def rounded(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """QuantizeLinear: divide, round half to even, add the zero point, saturate."""
    steps = x.astype(np.float32) / scale.astype(np.float32)
    if zero.dtype == np.int8:
        return np.clip(np.rint(steps) + zero, -128, 127).astype(np.int8)
    return np.clip(steps, -448, 448).astype(zero.dtype)


def turned_back(q: np.ndarray, scale: np.ndarray, axis: int | None = None) -> np.ndarray:
    """DequantizeLinear by one scale, or by one for each index of `axis`."""
    if axis is not None:
        scale = scale.reshape([-1 if i == axis else 1 for i in range(q.ndim)])
    return (q.astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype)


# --- replays -------------------------------------------------------------------------------


def replay(model: onnx.ModelProto | Path) -> Any:
    """A session in which nothing is fused, moved or left out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = 1
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


class Session:
    """A session as the gate takes it."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, array: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._session.run(None, {self._session.get_inputs()[0].name: array})[0]
        return found

    def close(self) -> None:
        """Nothing is held."""


# --- a graph that can be computed by hand --------------------------------------------------


def by_hand(weight: np.ndarray, op: str = "MatMul", **how: Any) -> onnx.ModelProto:
    """One operator, its input in steps of 1 (ranges up to 127)."""
    shape: list[Any] = ["batch", *([None] * (weight.ndim - 1))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], "layer", **how)],
        "by hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return quantize.quantized(made, "static", ranges={"x": 127.0})


def test_a_product_by_hand() -> None:
    """Halves go to the even neighbour, -128 is the end, each column has its own scale."""
    weight = np.array([[127, 1], [-63.5, -2.54]], np.float32)  # largest: 127 and 2.54
    model = by_hand(weight)
    x = np.array([[0.5, 1.5], [2.5, -0.5], [-1.5, -2.5], [300, -300]], np.float32)
    # steps of 1 for x, of 1 and 0.02 for the columns: -63.5 is -64, 1 / 0.02 is 50
    steps = np.array([[0, 2], [2, 0], [-2, -2], [127, -128]], np.float32)
    columns = np.array([[127, 50 * 0.02], [-64, -127 * 0.02]], np.float32)
    expected = [[-128, -5.08], [254, 2], [-126, 3.08], [24321, 452.12]]
    np.testing.assert_allclose(steps @ columns, expected, rtol=1e-6)
    found = replay(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    (standard,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(standard, expected, rtol=1e-6)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    q = rounded(x, values["x_qscale"], values["x_qzero"])
    assert q.tolist() == steps.astype(int).tolist()
    w = turned_back(values["y_weight_int8"], values["y_weight_scale"], axis=1)
    np.testing.assert_allclose(turned_back(q, values["x_qscale"]) @ w, found, rtol=1e-6)


def test_a_convolution_by_hand() -> None:
    """A scale for each channel that goes out, axis 0, whatever its size."""
    weight = np.array([[[[127.0]]], [[[-1.27]]], [[[0]]]], np.float32)  # [out 3, in 1, 1, 1]
    model = by_hand(weight, "Conv", kernel_shape=[1, 1])
    x = np.array([2.5, -3.5], np.float32).reshape(1, 1, 1, 2)
    found = replay(model).run(None, {"x": x})[0]
    expected = [[[[254, -508]], [[-2.54, 5.08]], [[0, 0]]]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    (standard,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(standard, expected, rtol=1e-6)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}["y_weight_scale"]
    # One of zeros alone has a scale that is neither zero nor a subnormal number.
    np.testing.assert_allclose(scales, [1, 0.01, 1 / 127], rtol=1e-6)


@pytest.mark.parametrize("optimised", [True, False])
def test_the_engine_of_gpu_precisions_computes_the_same(optimised: bool, tmp_path: Path) -> None:
    """127 times 127 in two products is more than 16 bits hold: no such kernel may be taken."""
    model = by_hand(np.full((64, 1), 127, np.float32))
    quantize.save(model, tmp_path / "model.onnx")
    file = tmp_path / "model.onnx"
    session = cpu_session(file, 1, precision="int8-fp16") if optimised else replay(file)
    found = session.run(None, {"x": np.full((2, 64), 126.5, np.float32)})[0]
    assert found.tolist() == [[126 * 127 * 64]] * 2


# --- exported towers -----------------------------------------------------------------------


Exported = Callable[[str, Side], tuple[Path, Artifact]]


@pytest.fixture(scope="module")
def exported(sample_artifact: Path, samples: str) -> Iterator[Exported]:
    """`exported("fp8", "text")`: the sample's tower, the whole of it quantised; folder, record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))

        @functools.cache
        def made(precision: str, side: Side) -> tuple[Path, Artifact]:
            settings = QuantizeSettings(samples, 100.0)
            done = make(SPEC, (side,), Variant("onnx", precision, settings=settings))
            tower = done.manifest.tower(side)
            assert tower is not None
            return done.folder, tower

        yield made


@pytest.mark.parametrize(("precision", "side"), CASES)
def test_a_replay_gives_what_the_gate_saw(precision: str, side: Side, exported: Exported) -> None:
    folder, tower = exported(precision, side)
    file = folder / tower.path
    inputs = parity_inputs(folder, side, tower.inputs[0].dtype)
    reference = np.load(folder / reference_name(side))
    again = parity.measure(Session(replay(file)), inputs, reference, precision)
    seen = tower.parity
    assert seen is not None and again.finite and again.passed
    assert abs(again.min_cosine - seen.min_cosine) < 1 - SAME_COSINE
    assert seen.min_cosine < 0.99999, "really rounded"
    judged = Session(cpu_session(file, 1, precision=precision)).run(inputs)
    found = drift_of(Session(replay(file)).run(inputs), judged)
    assert found.min_cosine >= SAME_COSINE


@pytest.mark.parametrize(("precision", "side"), CASES)
def test_pairs_are_symmetrical_and_numpy_computes_the_same(
    precision: str, side: Side, exported: Exported
) -> None:
    folder, tower = exported(precision, side)
    model = onnx.load(folder / tower.path)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    byte = np.dtype(ml_dtypes.float8_e4m3fn if precision == "fp8" else np.int8)
    made_by = {name: node for node in model.graph.node for name in node.output}
    pairs, weights = [], []
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        before = made_by.get(node.input[0])
        if before is None:
            weights.append(node)
            continue
        assert before.op_type == "QuantizeLinear"
        assert before.input[1:] == node.input[1:], "one scale and one zero point for both"
        pairs.append((before, node))
    assert len(weights) >= len(pairs) > 0
    for before, _ in pairs:
        scale, zero = (values[name] for name in before.input[1:])
        assert scale.shape == zero.shape == () and zero == 0 and zero.dtype == byte
        assert np.isfinite(scale) and scale >= np.finfo(scale.dtype).tiny
    # Each pair in the running tower, against numpy on what came to it there.
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    kind = TensorProto.FLOAT if PRECISIONS.get(precision).graph == "fp32" else TensorProto.FLOAT16
    names = [name for before, after in pairs for name in (before.input[0], after.output[0])]
    known = {output.name for output in model.graph.output}
    probed.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None)
        for name in dict.fromkeys([*names, *(node.output[0] for node in weights)])
        if name not in known
    )
    session = replay(probed)
    inputs = parity_inputs(folder, side, tower.inputs[0].dtype)[:3]
    outputs = [output.name for output in session.get_outputs()]
    given = {session.get_inputs()[0].name: inputs}
    found = dict(zip(outputs, session.run(None, given), strict=True))
    for before, after in pairs:
        scale, zero = (values[name] for name in before.input[1:])
        x, y = found[before.input[0]], found[after.output[0]]
        expected = turned_back(rounded(x, scale, zero), scale)
        assert (expected == y).all(), before.name
    for node in weights:
        axis = next(a.i for a in node.attribute if a.name == "axis")
        q, scale = values[node.input[0]], values[node.input[1]]
        assert len(node.input) == 2 or not values[node.input[2]].any()
        assert q.dtype == byte and scale.shape == (q.shape[axis],)
        assert (found[node.output[0]] == turned_back(q, scale, axis)).all(), node.name


@pytest.mark.parametrize(("precision", "side"), CASES)
def test_weights_for_gpus_use_all_of_their_bits(
    precision: str, side: Side, exported: Exported
) -> None:
    folder, tower = exported(precision, side)
    model = onnx.load(folder / tower.path)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = [n for n in model.graph.node if n.input and f"{n.output[0]}_scale" in n.input]
    most = LARGEST[precision]
    if not PRECISIONS.get(precision).emulated and tower.weight_bits == 7:
        most = 63
    assert tower.weight_bits == (None if precision == "fp8" else most.bit_length() + 1)
    for node in weights:
        axis = next(a.i for a in node.attribute if a.name == "axis")
        q, scale = (values[name] for name in node.input[:2])
        others = tuple(i for i in range(q.ndim) if i != axis)
        largest = np.abs(q.astype(np.float32)).max(axis=others)
        fine = scale > np.finfo(scale.dtype).tiny  # a scale is a normal number, see `scales_for`
        assert fine.mean() > 0.5
        assert set(largest[fine].tolist()) <= {most, 0.0}, node.name
        assert largest.max() == most


@pytest.mark.parametrize("flags", [(), ("avx2",), ("avx512_vnni",)])
def test_what_a_cpu_cannot_add_up_limits_no_weight_of_a_gpu(
    flags: tuple[str, ...], sample_artifact: Path, become: Become
) -> None:
    """The processor that exports may have 7 bits for its own int8; TensorRT's graph has 8."""
    become(flags)
    model = onnx.load(sample_artifact / "text" / "model.onnx")
    ranges = {layer.activation: 1.0 for layer in quantize.layers(model, "static")}
    for precision in ("int8-fp16", "int8-static"):
        row = PRECISIONS.get(precision)
        most = quantize.weight_max(row)
        made = quantize.quantized(model, "static", ranges=ranges, most=most)
        found = [
            int(np.abs(numpy_helper.to_array(t).astype(int)).max())
            for t in made.graph.initializer
            if t.name.endswith("_weight_int8")
        ]
        assert len(found) == 14
        assert set(found) == {127 if row.emulated else quantize.weight_max(row)}
        assert quantize.weight_bits(row) == max(found).bit_length() + 1
    assert quantize.weight_max(PRECISIONS.get("int8-fp16")) == 127
