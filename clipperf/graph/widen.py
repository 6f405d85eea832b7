"""A graph of 16 bits widened to fp32: for processors without bf16 kernels, and for comparison.

ONNX Runtime's CPU provider runs next to no operator in bf16. Every bfloat16 and float16 value fits
a float32 exactly, so the widened graph has the artifact's own weights, rounded as they are, and
differs from a run in 16 bits only by computing in float32.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipperf.graph.proto import mapped
from clipperf.nouns.variant import BFLOAT16, PRECISIONS

if TYPE_CHECKING:
    import onnx_ir as ir

TYPE_ATTRIBUTES = ("to", "dtype")
"""Integer attributes that hold a data type: Cast's; EyeLike's and the random generators'."""


@contextlib.contextmanager
def runnable_on_cpu(path: Path, precision: str) -> Iterator[Path]:
    """A model file that ONNX Runtime's CPU provider takes: `path`, or for bf16 a widened copy.

    The copy lies beside `path` while the block runs: twice the weights' size on disk, and in
    memory one tensor at a time.
    """
    if PRECISIONS.get(precision).floats != BFLOAT16:
        yield path
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".widened-") as folder:
        copy = Path(folder) / path.name
        widen(path, copy)
        yield copy


def widen(source: Path, target: Path) -> None:
    """Write the model `source` to `target` with float32 in place of every bfloat16 and float16."""
    import onnx_ir as ir

    model = ir.load(source)
    graphs: list[Any] = [model.graph, *model.graph.subgraphs()]
    for graph in graphs:
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            values += node.outputs
            node.attributes.update(
                (a.name, _wide_attribute(a)) for a in [*node.attributes.values()]
            )
        for value in values:
            if value.dtype in _narrow():
                value.dtype = ir.DataType.FLOAT
            if value.const_value is not None:
                value.const_value = _wide(_read(value.const_value))
    ir.save(model, target, external_data=f"{target.name}.data")


def _narrow() -> tuple[ir.DataType, ...]:
    import onnx_ir as ir

    return ir.DataType.BFLOAT16, ir.DataType.FLOAT16


def _read(tensor: Any) -> Any:
    """A tensor whose values are read by `proto`, where they lie in a file beside the graph."""
    import onnx_ir as ir

    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    path, dtype, shape = Path(tensor.path), tensor.dtype, tuple(tensor.shape.numpy())
    offset, length = tensor.offset or 0, tensor.length or 0

    def values() -> ir.Tensor:
        found = mapped(path, offset, length).view(dtype.numpy()).reshape(shape)
        return ir.Tensor(found, dtype=dtype)

    return ir.LazyTensor(values, dtype=dtype, shape=tensor.shape, name=tensor.name)


def _wide_attribute(attribute: ir.Attr) -> ir.Attr:
    import onnx_ir as ir

    if attribute.type == ir.AttributeType.TENSOR:
        return ir.AttrTensor(attribute.name, _wide(attribute.as_tensor()))
    if attribute.name in TYPE_ATTRIBUTES and attribute.value in _narrow():
        return ir.AttrInt64(attribute.name, ir.DataType.FLOAT)
    return attribute


def _wide(tensor: Any) -> Any:
    import onnx_ir as ir

    if tensor.dtype not in _narrow():
        return tensor
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(np.float32)),
        dtype=ir.DataType.FLOAT,
        shape=tensor.shape,
        name=tensor.name,
    )
