"""A patch embedding as one product of matrices.

Where a convolution's steps are as wide as its kernel, every pixel is read once: the patches are
the rows of a matrix, and their embeddings a product of it. Runtimes multiply matrices of eight
bits faster than they convolve, and pixels that come as bytes need no rounding for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipperf.graph.proto import free_prefix, needed, values

if TYPE_CHECKING:
    import onnx

PLAIN = {"group": 1, "dilations": [1, 1], "pads": [0, 0, 0, 0]}
"""What a convolution of patches has, if it says anything of it."""


class _Embedding(NamedTuple):
    """A convolution of patches, and the nodes that make tokens of its map, one after the other."""

    convolution: Any
    flat: Any
    transposed: Any


def as_product(model: onnx.ModelProto, folder: Path | None = None) -> bool:
    """Turn the convolution of an image tower's patches into a product, in place.

    The product is of float32 [batch, patches, channels * height * width] with a constant matrix;
    pixels that come as bytes are cast when they lie as patches. `folder` is where weights lie that
    are kept beside the graph. Returns whether there was one to turn: a convolution of the pixels
    themselves, into whole patches without a rest, whose map is flattened and transposed at once.
    """
    import onnx

    graph = model.graph
    found = _embedding(graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    if found is None or not {found.convolution.input[1], found.flat.input[1]} <= tensors.keys():
        return False
    weight, flat = (
        values(tensors[node.input[1]], folder) for node in (found.convolution, found.flat)
    )
    out, channels, height, width = weight.shape
    grid = _size(graph, 2) // height, _size(graph, 3) // width
    covered = all(grid) and (grid[0] * height, grid[1] * width) == (
        _size(graph, 2),
        _size(graph, 3),
    )
    flattens = flat[1:].tolist() in ([out, grid[0] * grid[1]], [out, -1])
    steps = _steps(found.convolution)
    if not (covered and flattens and steps == [height, width] and weight.dtype == np.float32):
        return False
    name = free_prefix(model, "patches")
    constants = {
        "split": np.array([0, channels, grid[0], height, grid[1], width]),
        "joined": np.array([0, grid[0] * grid[1], channels * height * width]),
        "matrix": np.ascontiguousarray(weight.reshape(out, -1).T),
    }
    graph.initializer.extend(
        onnx.numpy_helper.from_array(values, f"{name}_{what}") for what, values in constants.items()
    )
    nodes = [*_product(graph, found, name), *graph.node]
    for node in nodes:  # a shape is that of the pixels, cast or not
        if node.op_type == "Shape" and node.input[0] == found.convolution.input[0]:
            node.input[0] = graph.input[0].name
    nodes.remove(found.transposed)
    nodes = needed(nodes, graph.output)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {value for node in nodes for value in node.input}
    gone = {found.convolution.input[1], found.flat.input[1]} - used
    kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return True


def bytes_behind(model: onnx.ModelProto) -> dict[str, str]:
    """The values that are a graph's bytes in floats, each with the one that they are cast from."""
    import onnx

    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    whole = {name for name, kind in kinds.items() if kind == onnx.TensorProto.UINT8}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Reshape", "Transpose") and node.input[0] in whole:
            whole.add(node.output[0])
        elif node.op_type == "Cast" and node.input[0] in whole:
            found[node.output[0]] = node.input[0]
    return found


def _embedding(graph: onnx.GraphProto) -> _Embedding | None:
    """The convolution of patches of a graph's input, as it is or cast; None where there is none."""
    given = graph.input[0].name
    casts = [n.output[0] for n in graph.node if n.op_type == "Cast" and n.input[0] == given]
    for node in graph.node:
        if node.op_type != "Conv" or node.input[0] not in (given, *casts) or not _is_plain(node):
            continue
        flat = _only_reader(graph, node, "Reshape")
        transposed = flat and _only_reader(graph, flat, "Transpose")
        if transposed and list(transposed.attribute[0].ints) == [0, 2, 1]:
            return _Embedding(node, flat, transposed)
    return None


def _steps(convolution: Any) -> list[int]:
    """How far its kernel moves, down and across."""
    return next((list(a.ints) for a in convolution.attribute if a.name == "strides"), [1, 1])


def _is_plain(convolution: Any) -> bool:
    """Whether nothing but its steps is special about a convolution."""
    import onnx

    said = {a.name: onnx.helper.get_attribute_value(a) for a in convolution.attribute}
    return said.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and all(
        said.get(name, usual) == usual for name, usual in PLAIN.items()
    )


def _only_reader(graph: onnx.GraphProto, node: Any, op: str) -> Any:
    """The one node that reads another's output, where it is of the kind `op`; else None."""
    readers = [reader for reader in graph.node if node.output[0] in reader.input]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op else None


def _size(graph: onnx.GraphProto, axis: int) -> int:
    """Pixels along an axis of the graph's input; 0 where that is left open."""
    return int(graph.input[0].type.tensor_type.shape.dim[axis].dim_value)


def _product(graph: onnx.GraphProto, found: _Embedding, name: str) -> Iterator[Any]:
    """The nodes of the product; the last gives what the transposition gave."""
    import onnx

    given = graph.input[0].name
    is_cast, bias = found.convolution.input[0] != given, list(found.convolution.input[2:3])
    result = found.transposed.output[0]
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Reshape", [f"{name}_split"], {}),
        ("Transpose", [], {"perm": [0, 2, 4, 1, 3, 5]}),
        ("Reshape", [f"{name}_joined"], {}),
        *([("Cast", [], {"to": onnx.TensorProto.FLOAT})] if is_cast else []),
        ("MatMul", [f"{name}_matrix"], {}),
        *([("Add", bias, {})] if bias else []),
    ]
    for place, (op, more, how) in enumerate(steps):
        output = result if place == len(steps) - 1 else f"{name}_{place}"
        yield onnx.helper.make_node(op, [given, *more], [output], f"{output}_{op}", **how)
        given = output
