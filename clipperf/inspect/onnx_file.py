"""ONNX files read without their external data: what they take and give, what is wrong with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipperf.inspect.inspection import Inspection
from clipperf.nouns.artifact import TensorSpec, is_inside
from clipperf.nouns.variant import PRECISIONS
from clipperf.system.reading import regular_bytes

AGAIN = "export the model again"


def look(path: Path) -> Inspection:
    """What an ONNX file is; damage is reported, not raised."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return _described(path, onnx.load(path, load_external_data=False))
    except OSError as exc:
        problem = f"{path} cannot be read: {exc.strerror or exc}"
    except (DecodeError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
        # Not a graph, or one with fields that cannot be.
        problem = f"{path} is no ONNX model, or is cut off: {AGAIN}"
    return Inspection(str(path), "onnx", regular_bytes(path) or 0, problems=(problem,))


def _described(path: Path, model: Any) -> Inspection:
    found = path.stat().st_size
    if not model.graph.output:
        problem = f"{path} holds no ONNX graph with an output: {AGAIN}"
        return Inspection(str(path), "onnx", found, problems=(problem,))
    needed = _external_files(model)
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    facts = {
        "opset": opsets,
        "producer": f"{model.producer_name} {model.producer_version}".strip() or "not said",
        "nodes": str(len(model.graph.node)),
        "weights in": ", ".join([path.name, *needed]),
    }
    data = [path.parent / name for name in needed if is_inside(name)]
    weights = {tensor.name for tensor in model.graph.initializer}
    return Inspection(
        str(path),
        "onnx",
        found + sum(regular_bytes(file) or 0 for file in data),
        _precision(model),
        tuple(_tensor_spec(v) for v in model.graph.input if v.name not in weights),
        tuple(_tensor_spec(v) for v in model.graph.output),
        facts=facts,
        problems=tuple(_data_problems(path, needed)),
    )


def _external_files(model: Any) -> dict[str, int]:
    """Names of the files that hold external weights, with the bytes that each must have."""
    import onnx

    needed: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            said = {entry.key: entry.value for entry in tensor.external_data}
            end = int(said.get("offset", 0)) + int(said.get("length", 0))
            needed[said["location"]] = max(end, needed.get(said["location"], 0))
    return needed


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model: those of its graph, of graphs inside, and of functions."""
    nodes = [node for function in model.functions for node in function.node]
    graphs, sparse = [model.graph], []
    while graphs or nodes:
        for graph in graphs:
            yield from graph.initializer
            sparse += graph.sparse_initializer
            nodes += graph.node
        graphs = []
        if nodes:
            for attribute in nodes.pop().attribute:
                yield from (attribute.t, *attribute.tensors)
                sparse += (attribute.sparse_tensor, *attribute.sparse_tensors)
                graphs += (attribute.g, *attribute.graphs)
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _data_problems(path: Path, needed: dict[str, int]) -> Iterator[str]:
    for name, size in needed.items():
        file = path.parent / name
        if not is_inside(name) or not file.resolve().is_relative_to(path.parent.resolve()):
            yield f"{path} takes weights from {name!r}, which is not in its folder: {AGAIN}"
        elif (found := regular_bytes(file)) is None:
            yield f"{file}, which holds weights of {path.name}, is missing"
        elif found < size:
            yield f"{file} is cut off: {found} of {size} bytes"


def _precision(model: Any) -> str | None:
    """What most of the weights' bytes are; None for a graph without weights of a known type."""
    import onnx

    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        kind = next((row.name for row in PRECISIONS.rows if name in row.onnx_types), None)
        if kind is not None:
            each = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            sizes[kind] += math.prod(tensor.dims) * each
    return sizes.most_common(1)[0][0] if sizes else None


def _tensor_spec(value: Any) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    shape = tuple(
        axis.dim_param or "?" if not axis.HasField("dim_value") else int(axis.dim_value)
        for axis in kind.shape.dim
    )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return TensorSpec(value.name, str(dtype), shape)
