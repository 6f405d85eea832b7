"""Sizes in a graph as torch's exporter writes them, put in a way that every runtime reads well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def narrow_slices(model: ir.Model) -> None:
    """Let slices to the end of an axis end at the largest int32.

    torch's exporter writes the largest int64, which OpenVINO takes for -1, so for all but the
    last, where it reads a compiled model again.
    """
    import numpy as np
    import onnx_ir as ir

    largest = np.iinfo(np.int32).max
    for node in model.graph:
        ends = node.inputs[2] if node.op_type == "Slice" else None
        if ends is not None and ends.const_value is not None:
            values = ends.const_value.numpy()
            if (values > largest).any():
                ends.const_value = ir.tensor(np.minimum(values, largest), name=ends.name)


def reshape_by_constants(model: ir.Model) -> None:
    """Let a reshape say by constants what its dynamic axes become: 0 keeps an axis, -1 is the rest.

    torch's exporter has the graph collect the sizes of its tensors each time that it runs. The
    initializers that this adds are called after what they hold.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    for node in model.graph:
        if node.op_type != "Reshape" or node.inputs[0] is None:
            continue
        old, new = node.inputs[0].shape, node.outputs[0].shape
        if old is None or new is None or new.is_static():
            continue
        sizes = [
            size if isinstance(size, int) else 0 if _is_same(size, old[axis : axis + 1]) else -1
            for axis, size in enumerate(new)
        ]
        if sizes.count(-1) > 1:
            continue
        name = "_".join(["to", *map(str, sizes)])
        if name not in model.graph.initializers:
            constant = ir.Value(name=name, const_value=ir.tensor(sizes, name=name))
            model.graph.register_initializer(constant)
        node.replace_input_with(1, model.graph.initializers[name])
        node.attributes.pop("allowzero", None)
    common.RemoveUnusedNodesPass()(model)


def sizes_of_input(model: ir.Model) -> None:
    """Let a size that is one of the input's be read there: then all who read it are alike."""
    import onnx_ir as ir

    given = model.graph.inputs[0]
    axes = {size: axis for axis, size in enumerate(given.shape or ()) if _is_known(size)}
    for node in model.graph:
        if node.op_type != "Shape" or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        read = node.inputs[0].shape[start:end]
        if len(read) == 1 and read[0] in axes:
            node.replace_input_with(0, given)
            node.attributes.add(ir.AttrInt64("start", axes[read[0]]))
            node.attributes.add(ir.AttrInt64("end", axes[read[0]] + 1))


def _is_same(size: ir.SymbolicDim, place: Sequence[int | ir.SymbolicDim]) -> bool:
    """Whether a dynamic size is known to be what stands in its place."""
    return _is_known(size) and list(place) == [size]


def _is_known(size: int | ir.SymbolicDim) -> bool:
    """Whether a size is a dynamic one with a name."""
    return not isinstance(size, int) and size.value is not None
