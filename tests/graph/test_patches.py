"""A patch embedding as a product of matrices, beside the convolution that it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from patch_graph import PATCH, PIXELS, WIDTH, tower

from clipperf.graph import patches
from clipperf.graph.quantize import layers, quantized


def run(model: onnx.ModelProto, given: np.ndarray) -> list[np.ndarray]:
    """All outputs of a graph."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(None, {"pixel_values": given})
    return found


def kinds(model: onnx.ModelProto) -> list[str]:
    """The operators of a graph, in order."""
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_gives_what_the_convolution_gave(bias: bool) -> None:
    before, after = tower(bias=bias), tower(bias=bias)
    assert patches.as_product(after)
    assert "Conv" not in kinds(after) and "MatMul" in kinds(after)
    given = np.random.default_rng(1).normal(size=(2, 3, *PIXELS)).astype(np.float32)
    (expected, _), (found, shape) = run(before, given), run(after, given)
    assert found.shape == (2, 4, WIDTH) and shape.tolist() == [2]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_patch_is_a_row_from_channel_to_column() -> None:
    """By hand: a kernel that is 1 at one place reads that pixel of every patch."""
    model = tower(bias=False)
    weight = np.zeros((WIDTH, 3, *PATCH), np.float32)
    weight[0, 2, 1, 3] = 1.0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    assert patches.as_product(model)
    given = np.arange(3 * 6 * 8, dtype=np.float32).reshape(1, 3, 6, 8)
    # Channel 2 begins at 96; row 1 and column 3 of a patch are 8 + 3 further, the second column of
    # patches is 4 further, the second row 24.
    assert run(model, given)[0][0, :, 0].tolist() == [107, 111, 131, 135]


def test_bytes_are_cast_as_patches_and_multiplied_as_they_are() -> None:
    model = tower(TensorProto.UINT8)
    expected_from = tower(TensorProto.UINT8)
    assert patches.as_product(model)
    assert kinds(model)[:4] == ["Reshape", "Transpose", "Reshape", "Cast"]
    assert kinds(model).count("Cast") == 1, "the shape is that of the bytes"
    (layer,) = layers(model, "dynamic")
    assert layer.bytes == model.graph.node[3].input[0]
    given = np.random.default_rng(2).integers(0, 256, (3, 3, *PIXELS)).astype(np.uint8)
    expected = run(expected_from, given)[0]
    np.testing.assert_array_equal(run(model, given)[0].shape, expected.shape)
    for method in ("dynamic", "rows"):
        made = quantized(model, method)  # type: ignore[arg-type]
        assert "MatMulInteger" in kinds(made)
        assert not {"DynamicQuantizeLinear", "QuantizeLinear"} & set(kinds(made)), "nothing rounded"
        # Only weights are rounded: each to within half a step of its column's 127.
        weight = numpy_helper.to_array(tower().graph.initializer[0]).reshape(WIDTH, -1)
        half_steps = np.abs(weight).max(1) / 127 / 2
        most = given.reshape(3, -1).sum(1).max() * half_steps
        assert (np.abs(run(made, given)[0] - expected) <= most + 1e-2).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"strides": (1, 4)},
        {"pads": (1, 1, 1, 1)},
        {"dilations": (2, 1)},
        {"pixels": (6, 9)},
        {"pixels": ("height", "width")},
        {"strides": None},
        {"perm": (1, 2, 0)},
    ],
    ids=str,
)
def test_what_is_no_patch_embedding_stays_as_it_is(changed: dict[str, Any]) -> None:
    model = tower(**changed)
    before = model.SerializeToString()
    assert not patches.as_product(model)
    assert model.SerializeToString() == before


def test_weights_beside_the_graph_are_found_there(tmp_path: Any) -> None:
    model, path = tower(), tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    beside = onnx.load(path, load_external_data=False)
    assert patches.as_product(beside, tmp_path)
    given = np.ones((1, 3, *PIXELS), np.float32)
    onnx.save(beside, tmp_path / "changed.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "changed.onnx", providers=["CPUExecutionProvider"]
    )
    expected = run(tower(), given)[0]
    found = session.run(None, {"pixel_values": given})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
