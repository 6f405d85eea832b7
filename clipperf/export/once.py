"""Blocks of a transformer that differ in their weights alone, traced once.

torch's exporter takes about half a second for a block, and ViT-H-14 has 56. In the trace of a
tower each of them is a call of one ONNX function. Its body is traced by itself, and stands in the
place of every call in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import nn

    from clipperf.models.lean import LeanBlock

DOMAIN, NAME = "clipperf", "Block"

Trace = Callable[["nn.Module", tuple["torch.Tensor", ...], Any], "ir.Model"]
"""From a module, its example inputs and their dynamic axes to a graph that is not optimised."""


def traced(module: nn.Module, args: tuple[torch.Tensor, ...], axes: Any, trace: Trace) -> ir.Model:
    """`trace(module, args, axes)`, where lean blocks that are alike are traced once."""
    from onnx_ir.passes.common import InlinePass

    from clipperf.models.lean import LeanBlock

    blocks = [part for part in module.modules() if isinstance(part, LeanBlock)]
    if len({_kind(block) for block in blocks}) != 1:
        return trace(module, args, axes)
    shapes: list[torch.Size] = []
    for block in blocks:
        block.forward = partial(_called, block, shapes)  # type: ignore[method-assign]
    try:
        model = trace(module, args, axes)
    finally:
        for block in blocks:
            del block.forward
    calls = [node for node in model.graph if node.op_identifier()[:2] == (DOMAIN, NAME)]
    if calls:
        function = _function(blocks[0], shapes, trace)
        _name_axes(function, calls[0].inputs)
        model.functions[function.identifier()] = function
        InlinePass()(model)
    return model


def _kind(block: LeanBlock) -> tuple[Any, ...]:
    """What is the same in two blocks if their graphs are."""
    weights = tuple((name, w.shape, w.dtype) for name, w in block.state_dict().items())
    return repr(block), block.attn.num_heads, weights


def _called(
    block: LeanBlock, shapes: list[torch.Size], x: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """A block as a call of the function with its weights; notes the inputs' shapes."""
    import torch

    given = [x] if mask is None else [x, mask]
    shapes[:] = [value.shape for value in given]
    weights = block.state_dict(keep_vars=True).values()
    called: torch.Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{NAME}", [*given, *weights], dtype=x.dtype, shape=x.shape, version=1
    )
    return called


def _function(block: LeanBlock, shapes: list[torch.Size], trace: Trace) -> ir.Function:
    """The function that `_called` calls, of inputs of these shapes."""
    import onnx_ir as ir
    import torch

    weights = block.state_dict(keep_vars=True)
    dtype = block.attn.in_proj_weight.dtype
    args = tuple(torch.zeros([int(n) for n in shape], dtype=dtype) for shape in shapes)
    auto = torch.export.Dim.AUTO
    axes = tuple(
        {axis: auto for axis, n in enumerate(shape) if not isinstance(n, int)} for shape in shapes
    )
    graph = trace(block, args, axes).graph
    for name in weights:
        weight = graph.initializers.pop(name)
        weight.const_value = None
        graph.inputs.append(weight)
    return ir.Function(DOMAIN, NAME, graph=graph, attributes=[])


def _name_axes(function: ir.Function, given: Sequence[ir.Value | None]) -> None:
    """Name dynamic axes inside the function as those of what it is called with."""
    import onnx_ir as ir

    names: dict[Any, Any] = {}
    for ours, theirs in zip(function.inputs, given, strict=True):
        if ours.shape is not None and theirs is not None and theirs.shape is not None:
            names.update(zip(ours.shape, theirs.shape, strict=True))
    for value in (*function.inputs, *(out for node in function for out in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(
                [axis if isinstance(axis, int) else names.get(axis) for axis in value.shape]
            )
