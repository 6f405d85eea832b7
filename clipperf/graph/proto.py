"""ONNX graphs as protobuf messages: what those who rewrite them share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def free_prefix(model: onnx.ModelProto, prefix: str) -> str:
    """`prefix`, with as many underscores behind it as it takes that no value begins with it."""
    nodes = model.graph.node
    names = {tensor.name for tensor in model.graph.initializer}
    names.update(name for node in nodes for name in (*node.input, *node.output))
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def files_beside(model: onnx.ModelProto) -> set[str]:
    """The names of the files beside a graph that weights of it lie in."""
    import onnx

    outside = onnx.TensorProto.EXTERNAL
    return {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == outside
        for entry in tensor.external_data
        if entry.key == "location"
    }


def needed(nodes: Iterable[Any], outputs: Iterable[Any]) -> list[Any]:
    """The nodes, in order, that an output depends on."""
    wanted = {value.name for value in outputs}
    kept = []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
