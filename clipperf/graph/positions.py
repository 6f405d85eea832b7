"""Where in a row the largest number stands, in a way that GPUs find by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir


def search_in_floats(model: ir.Model) -> None:
    """Let the end token be looked for among float32 numbers: ids below 2**24 are exact in them.

    ONNX Runtime's CUDA provider finds the largest of floats only. Integers it sends to the CPU,
    which makes each run wait for two copies, and no run with a part on the CPU becomes a CUDA
    graph. Ids of a vocabulary are counted from its last one, CLIP's end token, which becomes 0:
    OpenVINO rounds floats to bf16 where it computes in it, and to bf16 the last 128 ids are one.
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
            nodes, counted = _counted_from_the_last(model.graph, given)
            cast = ir.node("Cast", [counted], to_float, outputs=[floats], name=f"{name}_Cast")
            # Before the first that takes it, in a sorted graph.
            model.graph.insert_before(node, [*nodes, cast])
            made[given] = floats
        node.replace_input_with(0, made[given])


def _counted_from_the_last(graph: ir.Graph, ids: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """Ids less the last of the table that they look up, and the node for it; else as they are."""
    import onnx_ir as ir

    tables = [n.inputs[0] for n, place in ids.uses() if n.op_type == "Gather" and place == 1]
    shapes = [table.shape for table in tables if table is not None and table.shape is not None]
    rows = {shape[0] for shape in shapes if len(shape) == 2 and isinstance(shape[0], int)}
    if len(rows) != 1 or ids.dtype is None:
        return [], ids
    name = f"{ids.name}_last"
    value = ir.tensor(np.array(rows.pop() - 1, ids.dtype.numpy()), name=name)
    last = ir.val(name, const_value=value)
    graph.register_initializer(last)
    counted = ir.Value(name=f"{ids.name}_counted", shape=ids.shape, type=ir.TensorType(ids.dtype))
    return [ir.node("Sub", [ids, last], outputs=[counted], name=f"{counted.name}_Sub")], counted
