"""The beginning of a transformer's image tower, small enough to count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PIXELS, PATCH, WIDTH = (6, 8), (3, 4), 5


def tower(
    dtype: int = TensorProto.FLOAT,
    pixels: tuple[int, int] = PIXELS,
    bias: bool = True,
    perm: tuple[int, ...] = (0, 2, 1),
    **how: Any,
) -> onnx.ModelProto:
    """A convolution of patches whose map becomes tokens [batch, patches, 5], and a shape besides.

    Pixels that come as bytes are cast first.
    """
    chance = np.random.default_rng(0)
    weight = chance.normal(size=(WIDTH, 3, *PATCH)).astype(np.float32)
    steps = {"kernel_shape": PATCH, "strides": PATCH, **how}
    given, nodes = "pixel_values", []
    if dtype == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [given], ["floats"], "cast", to=TensorProto.FLOAT))
        given = "floats"
    values = {
        "weight": weight,
        "bias": chance.normal(size=WIDTH).astype(np.float32),
        "flat": np.array([0, WIDTH, -1]),
    }
    inputs = [given, "weight", *(["bias"] if bias else [])]
    nodes += [
        helper.make_node("Shape", [given], ["batch"], "shape", start=0, end=1),
        helper.make_node("Conv", inputs, ["map"], "convolution", **steps),
        helper.make_node("Reshape", ["map", "flat"], ["flattened"], "flatten"),
        helper.make_node("Transpose", ["flattened"], ["tokens"], "turn", perm=perm),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [info("pixel_values", dtype, ["batch", 3, *pixels])],
        [
            info("tokens", TensorProto.FLOAT, ["batch", None, None]),
            info("batch", TensorProto.INT64, [1]),
        ],
        [numpy_helper.from_array(v, k) for k, v in values.items() if k != "bias" or bias],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
