"""An ONNX tower with its large matrices in int8 or fp8, by four methods.

- "dynamic": weights in int8 with one scale per output channel; each activation is measured and
  rounded when it comes (``DynamicQuantizeLinear``), so nothing has to be calibrated. Convolutions
  stay fp32: ONNX Runtime's ``ConvInteger`` is slower than its fp32 convolution.
- "rows": as "dynamic", with a scale for each row of an activation in the place of one for all of
  it, so that an embedding does not depend on what shares its batch.
- "static": activations are rounded by fixed symmetric scales from `activation_ranges`, written as
  pairs of QuantizeLinear and DequantizeLinear ("QDQ", https://arxiv.org/abs/2004.09602), which
  ONNX Runtime turns into integer kernels and TensorRT takes as int8.
- "fp8": as "static" with 8-bit floats (E4M3). TensorRT multiplies matrices in them; convolutions
  stay as they are, since TensorRT for RTX documents matrix products alone.

With the first two token embeddings become int8 rows with a scale each; TensorRT refuses such a
table, so with the others they stay as they are. `layers` are named by their node. What is not
quantised keeps the tower's own precision, and scales have it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipperf.graph.patches import bytes_behind
from clipperf.graph.proto import free_prefix, needed
from clipperf.graph.quantized_nodes import CONTRIB, NUMBERS, Layer, Method, Writer
from clipperf.graph.rounding import INT8, safe_weight_max
from clipperf.graph.trace import EXTERNAL_DATA_FROM_BYTES
from clipperf.nouns.variant import FLOAT8, Precision

if TYPE_CHECKING:
    import onnx

QUANTISED = {
    "dynamic": ("MatMul", "Gemm", "Gather"),
    "rows": ("MatMul", "Gemm", "Gather"),
    "static": ("MatMul", "Gemm", "Conv"),
    "fp8": ("MatMul", "Gemm"),
}
"""The operators that each method takes, where their weights are constants."""

CALIBRATED = ("static", "fp8")
"""Methods whose scales for activations come from samples."""

MIN_ROWS = 1000
"""A table of fewer rows is no vocabulary: not worth a scale per row."""


def layers(model: onnx.ModelProto, method: Method) -> list[Layer]:
    """The layers of a tower that a method can quantise, in the order of the graph."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in _floats(model)}
    turned = _transposes(model, shapes)
    whole = {} if method in CALIBRATED else bytes_behind(model)
    found = []
    for node in model.graph.node:
        if node.op_type not in QUANTISED[method] or len(node.input) < 2:
            continue
        data, weight = (1, 0) if node.op_type == "Gather" else (0, 1)
        name = turned.get(node.input[weight], node.input[weight])
        shape = shapes.get(name)
        transposed = name != node.input[weight]
        if node.op_type == "Gemm":
            said = {a.name: a.f if a.name in ("alpha", "beta") else a.i for a in node.attribute}
            plain = not said.get("transA") and said.get("alpha", 1) == said.get("beta", 1) == 1
            transposed ^= bool(said.get("transB"))
            if not plain:
                continue
        dims = 4 if node.op_type == "Conv" else 2
        if shape is None or len(shape) != dims:
            continue
        if node.op_type == "Gather" and (shape[0] < MIN_ROWS or transposed):
            continue
        given = node.input[data]
        found.append(Layer(node.name, node.op_type, given, name, transposed, whole.get(given, "")))
    return found


def _floats(model: onnx.ModelProto) -> Iterable[onnx.TensorProto]:
    import onnx

    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return (t for t in model.graph.initializer if t.data_type in kinds)


def method_of(precision: Precision) -> Method:
    """The method that makes towers of a quantised precision."""
    if precision.weights == FLOAT8:
        return "fp8"
    if precision.is_fixed:
        return "static"
    return "rows" if precision.row_scales else "dynamic"


def weight_bits(precision: Precision, portable: bool = False) -> int | None:
    """Bits of an integer weight, sign included; None where weights are floats."""
    integers = NUMBERS[method_of(precision)] is INT8
    return weight_max(precision, portable).bit_length() + 1 if integers else None


def weight_max(precision: Precision, portable: bool = False) -> int:
    """The largest number that a weight takes: what CPUs limit is for CPUs alone.

    It is this machine's that counts, or where the tower is `portable`, any.
    """
    numbers = NUMBERS[method_of(precision)]
    free = precision.emulated or numbers is not INT8
    return numbers.largest if free else safe_weight_max(portable)


def _transposes(model: onnx.ModelProto, shapes: Mapping[str, Any]) -> dict[str, str]:
    """Outputs of nodes that turn a constant matrix round, with that matrix's name."""
    return {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Transpose" and len(shapes.get(node.input[0], ())) == 2
    }


def quantized(
    model: onnx.ModelProto,
    method: Method,
    kept: Collection[str] = (),
    ranges: Mapping[str, float] | None = None,
    most: int | None = None,
) -> onnx.ModelProto:
    """A copy of a tower with all layers but `kept` quantised.

    `ranges` are the largest magnitudes of the layers' activations by tensor name, for what is
    `CALIBRATED`; `most` is the largest number that a weight takes, see `weight_max`.
    """
    import onnx

    chosen = {layer.name: layer for layer in layers(model, method) if layer.name not in kept}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    most = NUMBERS[method].largest if most is None else most
    out = Writer(free_prefix(model, "quantised_"), method, ranges or {}, most)
    for node in model.graph.node:
        layer = chosen.get(node.name)
        if layer is None:
            out.nodes.append(node)
        else:
            out.replace(node, layer, onnx.numpy_helper.to_array(tensors[layer.weight]))
    out.nodes = needed(out.nodes, model.graph.output)
    used = {name for node in out.nodes for name in node.input}
    result = onnx.ModelProto()
    result.CopyFrom(_without_graph(model))
    graph = result.graph
    if method == "rows":
        result.opset_import.add(domain=CONTRIB, version=1)
    graph.name = model.graph.name
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.node.extend(out.nodes)
    graph.initializer.extend(t for name, t in tensors.items() if name in used)
    graph.initializer.extend(out.tensors.values())
    return result


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    return onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )


def activation_ranges(
    model: onnx.ModelProto,
    names: Collection[str],
    run: Callable[[onnx.ModelProto], Iterable[Sequence[np.ndarray]]],
) -> dict[str, float]:
    """The largest magnitude that each named tensor takes.

    `run` is given the tower with one more output per name, a scalar, and yields what these are
    for each batch.
    """
    import onnx

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    for name in names:
        probed.graph.node.add(op_type="Abs", input=[name], output=[f"{name}_abs"])
        wide = onnx.helper.make_node("Cast", [f"{name}_abs"], [f"{name}_wide"], to=1)
        largest = onnx.helper.make_node(
            "ReduceMax", [f"{name}_wide"], [f"{name}_largest"], keepdims=0
        )
        probed.graph.node.extend((wide, largest))
        probed.graph.output.add(name=f"{name}_largest").type.tensor_type.elem_type = 1
    batches = [[float(value) for value in values] for values in run(probed)]
    return dict(zip(names, np.max(batches, axis=0).tolist(), strict=True))


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph, its weights beside it from `EXTERNAL_DATA_FROM_BYTES` on."""
    import onnx

    large = model.ByteSize() > EXTERNAL_DATA_FROM_BYTES
    path.unlink(missing_ok=True)  # external data are appended to what is there
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=large, location=data.name if large else None)
    if large:  # onnx lets nobody but the owner read it
        data.chmod(path.stat().st_mode)
