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
    """`trace(module, args, axes)`, where lean blocks that are alike are traced once.

    Raises: as `trace`; KeyError where a weight of the blocks plays no part in them.
    """
    from onnx_ir.passes.common import InlinePass

    from clipperf.models.lean import LeanBlock

    blocks = [part for part in module.modules() if isinstance(part, LeanBlock)]
    if len({_kind(block) for block in blocks}) != 1:
        return trace(module, args, axes)
    given: list[torch.Tensor] = []
    for block in blocks:
        block.forward = partial(_called, block, given)  # type: ignore[method-assign]
    try:
        model = trace(module, args, axes)
    finally:
        for block in blocks:
            del block.forward
    calls = [node for node in model.graph if node.op_identifier()[:2] == (DOMAIN, NAME)]
    if calls:
        body = trace(blocks[0], *_like(given))
        function = _function(blocks[0], body.graph)
        _name_axes(function, calls[0].inputs)
        model.functions.update({**body.functions, function.identifier(): function})
        InlinePass()(model)
    return model


def _kind(block: LeanBlock) -> tuple[Any, ...]:
    """Blocks of one kind have one graph."""
    weights = tuple((name, w.shape, w.dtype) for name, w in block.state_dict().items())
    return repr(block), block.attn.num_heads, weights


def _called(
    block: LeanBlock, given: list[torch.Tensor], x: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """A block as a call of the function with its weights; leaves its inputs in `given`."""
    import torch

    given[:] = [x] if mask is None else [x, mask]
    weights = block.state_dict(keep_vars=True).values()
    called: torch.Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{NAME}", [*given, *weights], dtype=x.dtype, shape=x.shape, version=1
    )
    return called


def _like(given: Sequence[torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Example inputs of the shapes that a trace has met, and their dynamic axes."""
    import torch

    auto = torch.export.Dim.AUTO
    args = tuple(torch.zeros([int(n) for n in x.shape], dtype=x.dtype) for x in given)
    axes = tuple(
        {axis: auto for axis, n in enumerate(x.shape) if not isinstance(n, int)} for x in given
    )
    return args, axes


def _function(block: LeanBlock, body: ir.Graph) -> ir.Function:
    """The function that `_called` calls, of the graph of a block: its weights become inputs."""
    import onnx_ir as ir

    for name in block.state_dict():
        weight = body.initializers.pop(name)
        weight.const_value = None
        body.inputs.append(weight)
    return ir.Function(DOMAIN, NAME, graph=body, attributes=[])


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
