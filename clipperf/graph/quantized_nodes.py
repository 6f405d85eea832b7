"""The nodes of quantised layers: what `quantize` writes in the place of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from clipperf.graph.rounding import FP8, INT8, ByteNumbers, rounded, scales_for

Method = Literal["dynamic", "rows", "static", "fp8"]

NUMBERS: dict[str, ByteNumbers] = {"dynamic": INT8, "rows": INT8, "static": INT8, "fp8": FP8}
"""What each method rounds to."""

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


@dataclass(frozen=True)
class Layer:
    """One operator with constant weights: a node of the graph, its input and its weights.

    `weight` is the tensor's name; [in, out] for a product of matrices (`transposed`: [out, in]),
    [out, in, height, width] for a convolution, [rows, width] for a table. `bytes` is the tensor of
    uint8 that the input is cast from, where there is one and it may be multiplied as it is.
    """

    name: str
    op: str
    activation: str
    weight: str
    transposed: bool = False
    bytes: str = ""


@dataclass
class Writer:
    """The nodes of a quantised graph, and the tensors that they need.

    What belongs to no tensor of the graph, and would have a name that it may use, has `prefix`
    before it.
    """

    prefix: str
    method: Method
    ranges: Mapping[str, float]
    most: int
    nodes: list[Any] = field(default_factory=list)
    tensors: dict[str, Any] = field(default_factory=dict)
    rounded: dict[str, list[str]] = field(default_factory=dict)

    def replace(self, node: Any, layer: Layer, weight: np.ndarray) -> None:
        """Write the quantised form of one layer; its output keeps its name."""
        if layer.op == "Gather":
            return self.table(node, weight)
        if layer.op == "Conv":
            return self.convolution(node, layer, weight)
        bias = node.input[2] if len(node.input) > 2 else ""
        output = f"{node.output[0]}_product" if bias else node.output[0]
        matrix = np.ascontiguousarray(weight.T) if layer.transposed else weight
        if layer.bytes:  # as they are: nothing to round, and one scale for all rows
            one, zero = self.shared("one", np.float32(1)), self.shared("byte_zero", np.uint8(0))
            self.rounded[layer.activation] = [layer.bytes, one, zero]
        if self.method == "dynamic" or layer.bytes:
            self.dynamic_product(layer.activation, self.weight(node, matrix, 1), output)
        elif self.method == "rows":
            known = self.weight(node, matrix, 1)
            self.product_by_rows(layer.activation, len(matrix), known, output)
        else:
            inputs = self.pair(layer, weight.dtype), self.weight(node, matrix, 1, pair=True)
            self.add("MatMul", inputs, [output])
        if bias:
            self.add("Add", [output, bias], [node.output[0]])
        return None

    def dynamic_product(self, activation: str, known: str, output: str) -> None:
        """``activation @ weight`` in integers, in the form that ONNX Runtime fuses to one node."""
        if activation not in self.rounded:
            names = [f"{activation}_uint8{part}" for part in ("", "_scale", "_zero")]
            self.add("DynamicQuantizeLinear", [activation], names)
            self.rounded[activation] = names
        values, scale, zero = self.rounded[activation]
        self.add("MatMulInteger", [values, f"{known}_int8", zero], [f"{output}_int32"])
        self.add("Cast", [f"{output}_int32"], [f"{output}_cast"], to=1)
        self.add("Mul", [scale, f"{known}_scale"], [f"{output}_scale"])
        self.add("Mul", [f"{output}_cast", f"{output}_scale"], [output])

    def product_by_rows(self, activation: str, width: int, known: str, output: str) -> None:
        """``activation @ weight`` in integers, each row [width] of the activation by its own scale.

        ONNX Runtime's kernels are fast for bytes without sign, so zero is 128. Its own operator
        multiplies by the weights' scales on the way; the rows' follow.
        """
        if activation not in self.rounded:
            self.rounded[activation] = self.bytes_by_rows(activation, width)
        values, scale = self.rounded[activation]
        one, zero = self.shared("one", np.float32(1)), self.shared("zero", np.uint8(128))
        inputs = [values, f"{known}_int8", one, f"{known}_scale", zero]
        self.add("MatMulIntegerToFloat", inputs, [f"{output}_sums"], domain=CONTRIB)
        self.add("Mul", [f"{output}_sums", scale], [output])

    def bytes_by_rows(self, name: str, width: int) -> list[str]:
        """An activation's rows rounded to bytes; names of these and of the scales [..., 1]."""
        last = self.shared("last", np.array([-1]))
        step = self.shared("step", np.float32(1 / INT8.largest))
        least = self.shared("least", np.finfo(np.float32).tiny)
        zero = self.shared("zero", np.uint8(128))
        self.add("Abs", [name], [f"{name}_abs"])
        self.add("ReduceMax", [f"{name}_abs", last], [f"{name}_largest"], keepdims=1)
        self.add("Mul", [f"{name}_largest", step], [f"{name}_step"])
        self.add("Max", [f"{name}_step", least], [f"{name}_scale"])  # a row may be all zero
        # One scale a row is what the operator takes of a matrix.
        shape = self.shared(f"rows_of_{width}", np.array([-1, width]))
        self.add("Reshape", [name, shape], [f"{name}_rows"])
        self.add("Reshape", [f"{name}_scale", last], [f"{name}_scales"])
        self.add("Shape", [f"{name}_scales"], [f"{name}_count"])
        self.add("Expand", [zero, f"{name}_count"], [f"{name}_zeros"])
        rows = [f"{name}_rows", f"{name}_scales", f"{name}_zeros"]
        self.add("QuantizeLinear", rows, [f"{name}_rounded"], axis=0)
        self.add("Shape", [name], [f"{name}_shape"])
        self.add("Reshape", [f"{name}_rounded", f"{name}_shape"], [f"{name}_uint8"])
        return [f"{name}_uint8", f"{name}_scale"]

    def weight(self, node: Any, values: np.ndarray, axis: int, pair: bool = False) -> str:
        """Constants of a layer's weights; with `pair` they are turned back. Returns the name."""
        name, kind = f"{node.output[0]}_weight", NUMBERS[self.method]
        parts = [f"{name}_{kind.name}", f"{name}_scale"]
        for part, constant in zip(parts, rounded(values, axis, kind, self.most), strict=True):
            self.tensor(part, constant)
        if pair:
            self.add("DequantizeLinear", parts, [name], axis=axis)
        return name

    def pair(self, layer: Layer, dtype: np.dtype[Any]) -> str:
        """Round a layer's input by its calibrated scale and back; returns the result's name."""
        name, kind = layer.activation, NUMBERS[self.method]
        result = f"{name}_rounded"
        if name not in self.rounded:
            how = [f"{name}_qscale", f"{name}_qzero"]
            self.tensor(how[0], scales_for(np.array(self.ranges[name]), kind.largest, dtype))
            self.tensor(how[1], np.array(0, kind.dtype))
            self.add("QuantizeLinear", [name, *how], [f"{name}_{kind.name}"])
            self.add("DequantizeLinear", [f"{name}_{kind.name}", *how], [result])
            self.rounded[name] = [result]
        return result

    def convolution(self, node: Any, layer: Layer, weight: np.ndarray) -> None:
        """A convolution between pairs."""
        import onnx

        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[0] = self.pair(layer, weight.dtype)
        changed.input[1] = self.weight(node, weight, 0, pair=True)
        self.nodes.append(changed)

    def table(self, node: Any, weight: np.ndarray) -> None:
        """Rows of int8 and their scales, looked up apart and multiplied."""
        values, scales = rounded(weight, 0, INT8, INT8.largest)  # never summed
        name = node.output[0]
        self.tensor(f"{name}_rows_int8", values)
        self.tensor(f"{name}_rows_scale", scales[:, None])
        self.add("Gather", [f"{name}_rows_int8", node.input[1]], [f"{name}_int8"], axis=0)
        self.add("Gather", [f"{name}_rows_scale", node.input[1]], [f"{name}_scale"], axis=0)
        self.add("Cast", [f"{name}_int8"], [f"{name}_cast"], to=1)
        self.add("Mul", [f"{name}_cast", f"{name}_scale"], [name])

    def add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **how: Any) -> None:
        """Append one node, named after its output."""
        import onnx

        self.nodes.append(onnx.helper.make_node(op, inputs, outputs, f"{outputs[0]}_{op}", **how))

    def shared(self, name: str, value: np.ndarray | np.generic) -> str:
        """A constant of several layers, added once; returns its name in the graph."""
        self.tensor(f"{self.prefix}{name}", value)
        return f"{self.prefix}{name}"

    def tensor(self, name: str, values: np.ndarray | np.generic) -> None:
        """Add a constant; what has no axes keeps none, as ONNX asks of one scale for all."""
        import onnx

        self.tensors[name] = onnx.numpy_helper.from_array(np.asarray(values, order="C"), name)
