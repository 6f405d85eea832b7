"""Where in a row the largest number stands, in a way that GPUs find by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def search_in_floats(model: ir.Model) -> None:
    """Let the end token be looked for among float32 numbers: ids below 2**24 are exact in them.

    ONNX Runtime's CUDA provider finds the largest of floats only. Integers it sends to the CPU,
    which makes each run wait for two copies, and no run with a part on the CPU becomes a CUDA
    graph.
    """
    import onnx_ir as ir

    integers = (ir.DataType.INT32, ir.DataType.INT64)
    made: dict[ir.Value, ir.Value] = {}
    for node in model.graph:
        given = node.inputs[0] if node.op_type in ("ArgMax", "ArgMin") else None
        if given is None or given.dtype not in integers:
            continue
        if given not in made:
            name = f"{given.name}_as_float"
            floats = ir.Value(name=name, shape=given.shape, type=ir.TensorType(ir.DataType.FLOAT))
            to_float = {"to": ir.DataType.FLOAT}
            cast = ir.node("Cast", [given], to_float, outputs=[floats], name=f"{name}_Cast")
            model.graph.insert_before(node, cast)  # the first that takes it, in a sorted graph
            made[given] = floats
        node.replace_input_with(0, made[given])
