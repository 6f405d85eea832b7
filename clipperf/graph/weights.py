"""A checkpoint's tensors put into a graph that was traced without them.

What the graph makes of weights alone (nearly always their transposes) is computed here, exactly as
an optimiser that knew the values would have done, one tensor at a time while the file is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import torch

GROWTH_FROM_BYTES = 2**20
"""What would take more than this, and more than all that it is made of, stays to be computed."""


class NotComputed(Exception):
    """ONNX's evaluator does not take a node of large weights, which shows while a model is saved.

    `ir.save` wraps it in an error of its own, unless weights lie beside the graph.
    """


def fill(model: ir.Model, state: Mapping[str, torch.Tensor]) -> None:
    """Turn the inputs of a kept graph, all but the first, into weights.

    `state` is the module's, in fp32; tensors are cast to the graph's types. Nothing is computed
    before the model is saved.

    Raises:
        ValueError: the graph is not of the module that `state` comes from.
    """
    import onnx_ir as ir

    graph = model.graph
    weights = list(graph.inputs[1:])
    del graph.inputs[1:]
    for weight in weights:
        tensor = state.get(str(weight.name))
        if tensor is None or weight.shape != ir.Shape(tensor.shape):
            raise ValueError(f"the graph wants {weight.name} {weight.shape}")
        weight.const_value = _cast(tensor, weight)
    known: set[Any] = {*weights, *graph.initializers.values()}
    made = [node for node in graph if _take(node, known)]
    for node in reversed(made):
        for output in node.outputs:
            if output.uses():
                weights.append(_detached(output))
        graph.remove(node, safe=True)
    held = [*weights, *graph.initializers.values()]
    graph.initializers.clear()
    for value in held:
        if value.uses():
            graph.register_initializer(value)


def _cast(tensor: torch.Tensor, weight: Any) -> ir.TensorProtocol:
    from onnx_ir import tensor_adapters

    dtype = tensor_adapters.to_torch_dtype(weight.dtype)
    if dtype == tensor.dtype:
        return tensor_adapters.TorchTensor(tensor, weight.name)
    return _later(weight, lambda: tensor_adapters.TorchTensor(tensor.to(dtype), weight.name))


def _later(value: Any, evaluate: Callable[[], ir.TensorProtocol]) -> ir.LazyTensor:
    import onnx_ir as ir

    return ir.LazyTensor(evaluate, dtype=value.dtype, shape=value.shape, name=value.name)


def _take(node: Any, known: set[Any]) -> bool:
    """Whether a node makes something of known values alone; if so its outputs are known, too."""
    import onnx_ir as ir

    used = [value for value in node.inputs if value is not None]
    if not all(value in known for value in used) or not all(map(_is_plain, node.outputs)):
        return False
    given = {str(value.name): value.const_value for value in used}
    result = partial(_result, ir.to_proto(node), node.graph.opset_imports, given)
    outputs = [_later(value, partial(result, value.name)) for value in node.outputs]
    size, read = (sum(t.nbytes for t in tensors) for tensors in (outputs, given.values()))
    if size > max(GROWTH_FROM_BYTES, read):
        return False
    if max(size, read) <= GROWTH_FROM_BYTES and not _can_be_computed(outputs):
        return False
    for value, tensor in zip(node.outputs, outputs, strict=True):
        value.const_value = tensor
        known.add(value)
    return True


def _can_be_computed(tensors: Sequence[ir.LazyTensor]) -> bool:
    """Whether ONNX's evaluator takes a node; what it does not take stays for the runtime.

    It lacks some that runtimes have (gathering along a side from fewer elements than it has), and
    says so by whatever numpy raises.
    """
    try:
        for tensor in tensors:
            tensor.raw()
    except Exception:  # noqa: BLE001
        return False
    return True


def _is_plain(value: ir.Value) -> bool:
    """Whether a value is a tensor of known type and size inside of the graph."""
    static = value.shape is not None and value.shape.is_static()
    return static and value.dtype is not None and not value.is_graph_output()


def _result(
    node: onnx.NodeProto,
    opsets: dict[str, int],
    given: dict[str, Any],
    output: str,
) -> ir.TensorProtocol:
    """Compute one output of a node from its inputs by name.

    Raises:
        NotComputed: the evaluator fails.
    """
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator
    from onnx_ir import tensor_adapters

    tensors: dict[str, Any] = {name: _now(tensor) for name, tensor in given.items()}
    if node.op_type == "Transpose" and node.attribute:
        (tensor,) = tensors.values()
        if isinstance(tensor, tensor_adapters.TorchTensor):  # torch uses blocks, and threads
            permuted = tensor.raw.permute(*node.attribute[0].ints)
            return tensor_adapters.TorchTensor(permuted.contiguous())
    feeds = {name: tensor.numpy() for name, tensor in tensors.items()}
    try:
        results: Any = ReferenceEvaluator(node, opsets=opsets).run([output], feeds)
    except (MemoryError, OSError):
        raise
    except Exception as exc:
        raise NotComputed(f"{node.op_type}: {exc}") from exc
    return ir.Tensor(results[0])


def _now(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    import onnx_ir as ir

    return tensor.raw() if isinstance(tensor, ir.LazyTensor) else tensor


def _detached(output: ir.Value) -> ir.Value:
    """The same value without the node that made it, in every place that reads it."""
    import onnx_ir as ir

    value = ir.Value(
        name=output.name, type=output.type, shape=output.shape, const_value=output.const_value
    )
    output.replace_all_uses_with(value)
    return value
