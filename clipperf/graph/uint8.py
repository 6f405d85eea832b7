"""Image towers that take bytes: a quarter of float32 pixels, and nothing for the host to do.

A byte x of channel c stands for ``(x / 255 - mean[c]) / std[c]``. A convolution that reads the
pixels first takes this into its own weight and bias, as it does for a ViT's patches. With padding
it cannot: the border holds zeros of normalised pixels, which are no byte. Then, and where the
tower is narrower than float32 (weights divided by 255 and std come near fp16's subnormals),
the graph normalises in float32 and goes on as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from clipperf.inputs.preprocess_spec import PreprocessSpec

if TYPE_CHECKING:
    import onnx_ir as ir

RECIPE = 1
"""Raise it when the same tower comes to take bytes in another way."""


def take_bytes(model: ir.Model, spec: PreprocessSpec) -> None:
    """Let the graph of an image tower take uint8 pixels in the place of normalised float32 ones.

    In place. Everything is computed in float64 and rounded once; folded, the offset is that of
    the rounded weights, so that rounding meets pixels as centred as it met before.
    """
    import onnx_ir as ir

    graph = model.graph
    pixels = graph.inputs[0]
    uses = tuple(pixels.uses())
    readers = [node for node, _ in uses if node.op_type != "Shape"]
    scale, offset = _scale_and_offset(spec)
    floats = _value("pixels_float", pixels)
    to_float = {"to": ir.DataType.FLOAT}
    nodes = [ir.node("Cast", [pixels], to_float, outputs=[floats], name="pixels_Cast")]
    if len(readers) == 1 and _can_fold(readers[0], pixels):
        _fold(graph, readers[0], scale, offset)
    else:
        for op, by in (("Mul", scale), ("Sub", offset * scale)):
            given = [floats, _constant(graph, f"pixels_{op}_by", by)]
            floats = _value(f"pixels_{op}_done", pixels)
            nodes.append(ir.node(op, given, outputs=[floats], name=f"pixels_{op}"))
    for node, place in uses:
        node.replace_input_with(place, floats)
    pixels.dtype = ir.DataType.UINT8
    graph.insert_before(graph[0], nodes)


def _scale_and_offset(spec: PreprocessSpec) -> tuple[np.ndarray, np.ndarray]:
    """Float64 [3, 1, 1] each: the normalised pixel is ``(byte - offset) * scale``."""
    mean, std = (np.array(v, np.float64).reshape(3, 1, 1) for v in (spec.mean, spec.std))
    return 1 / (255 * std), 255 * mean


def _can_fold(node: ir.Node, pixels: ir.Value) -> bool:
    """Whether a node is a convolution of whole pixels, unpadded, with constant float32 weights."""
    import onnx_ir as ir

    if node.op_type != "Conv" or node.inputs[0] is not pixels:
        return False
    given = node.attributes
    constants = [value.const_value for value in node.inputs[1:] if value is not None]
    return (
        given.get_int("group", 1) == 1
        and given.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and not any(given.get_ints("pads", ()))
        and all(t is not None and t.dtype == ir.DataType.FLOAT for t in constants)
    )


def _fold(graph: ir.Graph, node: ir.Node, scale: np.ndarray, offset: np.ndarray) -> None:
    """Turn a convolution of normalised pixels into one of bytes."""
    before: list[Any] = [value for value in node.inputs[1:] if value is not None]
    weight, *rest = (value.const_value.numpy().astype(np.float64) for value in before)
    weight = (weight * scale).astype(np.float32)
    bias = sum(rest) - (weight.astype(np.float64) * offset).sum((1, 2, 3))
    node.resize_inputs(3)
    node.replace_input_with(1, _constant(graph, "pixels_weight", weight))
    node.replace_input_with(2, _constant(graph, "pixels_bias", bias))
    for value in before:
        if not value.uses():
            del graph.initializers[value.name]


def _value(name: str, like: ir.Value) -> ir.Value:
    """A float32 value of the shape of another."""
    import onnx_ir as ir

    return ir.val(name, ir.DataType.FLOAT, like.shape)


def _constant(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    """A new float32 initializer."""
    import onnx_ir as ir

    value = ir.val(name, const_value=ir.Tensor(values.astype(np.float32), name=name))
    graph.register_initializer(value)
    return value
