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

AGAIN = "export the model again"


def look(path: Path) -> Inspection:
    """What an ONNX file is; damage is reported, not raised."""
    import onnx

    found = path.stat().st_size
    try:
        return _described(path, onnx.load(path, load_external_data=False))
    except Exception:  # noqa: BLE001 - what is no graph fails in as many ways as there are fields
        problem = f"{path} is no ONNX model, or is cut off: {AGAIN}"
        return Inspection(str(path), "onnx", found, problems=(problem,))


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
        found + sum(p.stat().st_size for p in data if p.is_file()),
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
    nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    yield from model.graph.initializer
    while nodes:
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer
                nodes.extend(graph.node)


def _data_problems(path: Path, needed: dict[str, int]) -> Iterator[str]:
    for name, size in needed.items():
        file = path.parent / name
        if not is_inside(name) or not file.resolve().is_relative_to(path.parent.resolve()):
            yield f"{path} takes weights from {name!r}, which is not in its folder: {AGAIN}"
        elif not file.is_file():
            yield f"{file}, which holds weights of {path.name}, is missing"
        elif file.stat().st_size < size:
            yield f"{file} is cut off: {file.stat().st_size} of {size} bytes"


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
