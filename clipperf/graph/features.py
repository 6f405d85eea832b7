"""Image towers that give their features, too: what the last product of the graph multiplies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipperf.errors import ExportError
from clipperf.nouns.artifact import FEATURES_NAME

if TYPE_CHECKING:
    import onnx_ir as ir

RECIPE = 1
"""Raise it when the same tower comes to give other features."""

AFTER = ("Cast", "Div", "Add", "Identity")
"""What may follow the projection: another type, unit vectors, a bias."""


def give_features(model: ir.Model, width: int) -> None:
    """Make features [batch, width] the second output of an image tower that ends with a projection.

    In place, in float32 whatever the graph computes in.

    Raises:
        ExportError: the graph does not end with a product of features of this width.
    """
    import onnx_ir as ir

    graph = model.graph
    node = graph.outputs[0].producer()
    while node is not None and node.op_type in AFTER:
        before = node.inputs[0]
        node = None if before is None else before.producer()
    features = node.inputs[0] if node is not None and node.op_type in ("MatMul", "Gemm") else None
    weight = node.inputs[1] if node is not None and features is not None else None
    shape = None if weight is None else weight.shape
    if features is None or shape is None or width not in tuple(shape):
        raise ExportError(
            f"the graph does not end with a projection of {width} features: export it without "
            "--features"
        )
    found = ir.val(FEATURES_NAME, ir.DataType.FLOAT, ir.Shape(["batch", width]))
    to_float = {"to": ir.DataType.FLOAT}
    graph.append(ir.node("Cast", [features], to_float, outputs=[found], name="features_Cast"))
    graph.outputs.append(found)
