"""A tower as an ONNX file: dynamic batch, and dynamic text length where that is exact."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from clipperf.errors import ExportError
from clipperf.export.fold import fold_batch_norms
from clipperf.types import TensorSpec, Tower

OPSET = 20
"""GELU and LayerNormalization are single operators from 20 and 17 on; TensorRT 10 reads 20."""

BF16_OPSET = 22
"""Conv and the poolings take bfloat16 from here on."""

EXTERNAL_DATA_FROM_BYTES = 2**30
"""Weights of this size lie beside the graph. A protobuf file must stay below 2 GiB, and writing
one takes three times its size in RAM, so the line is drawn at half of that."""

INPUT_NAMES = {"image": "pixels", "text": "tokens"}
OUTPUT_NAMES = {"image": "image_embeds", "text": "text_embeds"}
"""Not `embedding`: that name collides with the token-embedding node of the text tower."""

MAX_BATCH = 65536


def weight_bytes(tower: Tower) -> int:
    """Bytes of a tower's parameters and buffers."""
    tensors = [*tower.module.parameters(), *tower.module.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def io_specs(tower: Tower) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of the exported graph; dynamic axes are names."""
    side = tower.side
    shape: tuple[int | str, ...]
    if side == "image":
        shape, dtype = ("batch", *map(int, tower.example.shape[1:])), "float32"
    else:
        tokens = "tokens" if tower.dynamic_tokens else int(tower.example.shape[1])
        shape, dtype = ("batch", tokens), "int64"
    return (
        TensorSpec(INPUT_NAMES[side], dtype, shape),
        TensorSpec(OUTPUT_NAMES[side], "float32", ("batch", tower.spec.embed_dim)),
    )


def opset(precision: str) -> int:
    """The version of ONNX's operators that graphs of a precision are written in."""
    return BF16_OPSET if precision == "bf16" else OPSET


def narrow(tower: Tower, precision: str) -> None:
    """Turn an fp32 tower into `precision`, in place; batch norms are folded before the cast."""
    import torch

    if precision != "fp32":
        fold_batch_norms(tower.module, tower.example)
        tower.module.to({"fp16": torch.float16, "bf16": torch.bfloat16}[precision])


def export_onnx(tower: Tower, path: Path, precision: str = "fp32") -> None:
    """Write an fp32 tower to `path` in `precision`, which it has itself from then on.

    Weights above `EXTERNAL_DATA_FROM_BYTES` lie beside `path`.

    Raises:
        ExportError: torch's exporter refuses the tower; the message holds its reason.
    """
    import torch
    from torch.export import Dim

    narrow(tower, precision)
    given, produced = io_specs(tower)
    axes = {0: Dim("batch", min=1, max=MAX_BATCH)}
    if tower.dynamic_tokens:
        axes[1] = Dim("tokens", min=2, max=tower.spec.context_tokens)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                tower.module,
                (tower.example,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[given.name],
                output_names=[produced.name],
                opset_version=opset(precision),
                optimize=True,
                verbose=False,
            )
            if program is None:
                raise ExportError(f"{tower.spec.id} {tower.side}: torch's exporter gave nothing")
            program.save(path, external_data=weight_bytes(tower) > EXTERNAL_DATA_FROM_BYTES)
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as exc:
        raise ExportError(
            f"{tower.spec.id}: torch's exporter cannot take its {tower.side} tower: "
            f"{root_reason(exc)}"
        ) from exc
    check_axes(path, given, produced)


def root_reason(exc: BaseException) -> str:
    """The first line of the innermost cause: the exporter wraps it in pages of advice."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0] if lines else 'no message'}"[:400]


def check_axes(path: Path, given: TensorSpec, produced: TensorSpec) -> None:
    """Make sure that the graph has the shapes promised: exporters silently fix dynamic axes.

    Raises:
        ExportError: an axis that should be dynamic was fixed, or the other way round.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    for spec, value in ((given, graph.input[0]), (produced, graph.output[0])):
        dims = value.type.tensor_type.shape.dim
        found = tuple(d.dim_value if d.HasField("dim_value") else "dynamic" for d in dims)
        wanted = tuple("dynamic" if isinstance(axis, str) else axis for axis in spec.shape)
        if found != wanted or value.name != spec.name:
            raise ExportError(
                f"{path.name}: {value.name} came out as {found}, expected {spec.name} {wanted}"
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's progress prints and warnings; errors still raise."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
