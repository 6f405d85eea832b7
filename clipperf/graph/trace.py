"""A tower as an ONNX file: dynamic batch, and dynamic text length where that is exact."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.errors import ClipperfError, ExportError
from clipperf.graph import kept, positions, shapes, uint8, weights
from clipperf.graph.features import give_features
from clipperf.graph.fold import fold_batch_norms
from clipperf.graph.fuse import fuse_branches
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.artifact import INPUT_NAMES, OUTPUT_NAMES, TensorSpec
from clipperf.nouns.model import Tower
from clipperf.nouns.variant import BFLOAT16, FLOAT16, PRECISIONS, PixelDtype

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

OPSET = 20
"""GELU and LayerNormalization are single operators from 20 and 17 on; TensorRT 10 reads 20."""

BF16_OPSET = 22
"""Conv and the poolings take bfloat16 from here on."""

EXTERNAL_DATA_FROM_BYTES = 2**25
"""Weights of this size lie beside the graph, where ONNX Runtime maps them; inside it parses and
copies them, which takes longer than all else that it does to open a tower, and RAM for the copies.
Below it one file is handier. A protobuf file must stay below 2 GiB anyway."""

RECIPE = 13
"""Raise it when the same weights and versions come to give another file."""

MAX_BATCH = 65536


def io_specs(tower: Tower, pixel_dtype: PixelDtype = "float32") -> tuple[TensorSpec, TensorSpec]:
    """Input and output of the exported graph; dynamic axes are names."""
    side = tower.side
    shape: tuple[int | str, ...]
    dtype: str
    if side == "image":
        shape, dtype = ("batch", *map(int, tower.example.shape[1:])), pixel_dtype
    else:
        tokens = "tokens" if tower.dynamic_tokens else int(tower.example.shape[1])
        shape, dtype = ("batch", tokens), "int64"
    return (
        TensorSpec(INPUT_NAMES[side], dtype, shape),
        TensorSpec(OUTPUT_NAMES[side], "float32", ("batch", tower.spec.embed_dim)),
    )


def opset(precision: str) -> int:
    """The version of ONNX's operators that graphs of a precision are written in."""
    return BF16_OPSET if PRECISIONS.get(precision).floats == BFLOAT16 else OPSET


def export_onnx(
    tower: Tower,
    path: Path,
    precision: str = "fp32",
    key: str | None = None,
    takes_bytes: PreprocessSpec | None = None,
    features: int | None = None,
) -> int:
    """Write an fp32 tower to `path` in `precision`; return how many of its parts were joined.

    With `takes_bytes` its pixels are uint8, and it normalises them as that says; with `features`
    it gives that many of them before its projection, too. Weights above
    `EXTERNAL_DATA_FROM_BYTES` lie beside `path`. With a `graph_key` the graph is kept for further
    checkpoints of the architecture. Branches of the tower are joined, its batch norms folded, and
    `models.lean` leaves out what its embedding never reads, all in place.

    Raises:
        ExportError: torch's exporter refuses the tower; the message holds its reason.
    """
    import onnx_ir as ir
    import torch

    from clipperf.models.lean import make_lean

    joined = fuse_branches(tower.module, tower.example)
    fold_batch_norms(tower.module, tower.example)
    make_lean(tower.module, tower.start_id)
    try:
        with quiet(), torch.no_grad():
            model = _filled(tower, precision, key) or _plain(tower, precision)
            try:
                _finish(model, path, takes_bytes, features)
            except (weights.NotComputed, ir.serde.SerdeError):
                if key:
                    kept.forget(key)
                _finish(_plain(tower, precision), path, takes_bytes, features)
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as exc:
        raise ExportError(
            f"{tower.spec.id}: torch's exporter cannot take its {tower.side} tower: "
            f"{root_reason(exc)}"
        ) from exc
    except (weights.NotComputed, ir.serde.SerdeError) as exc:
        raise ExportError(
            f"{tower.spec.id}: a constant of its {tower.side} tower cannot be computed: "
            f"{root_reason(exc)}"
        ) from exc
    check_axes(path, *io_specs(tower, "float32" if takes_bytes is None else "uint8"))
    return joined


def graph_key(tower: Tower, normalized: bool, precision: str, config: dict[str, Any]) -> str:
    """The key of a tower's graph; `config` is the model configuration."""
    return kept.key(config, tower, normalized, precision, opset(precision), RECIPE)


def _filled(tower: Tower, precision: str, key: str | None) -> ir.Model | None:
    """The graph of the architecture with the tower's weights; None where that cannot be had.

    One that was kept and does not fit is as one that was not kept.
    """
    try:
        if key and (model := kept.kept(key)) is not None:
            try:
                weights.fill(model, tower.module.state_dict())
            except (ValueError, LookupError, TypeError, AttributeError):
                kept.forget(key)
            else:
                return model
        empty = kept.without_values(tower.module, _dtype(precision))
        model = _traced(empty, tower, precision)
        kept.take_out_weights(model, empty)
        if key:  # read again: torch remembers what it traced, and would hold the weights
            kept.keep(key, model)
            model = kept.kept(key) or model
        weights.fill(model, tower.module.state_dict())
    except (OSError, ClipperfError):
        raise
    except Exception:  # noqa: BLE001 - where the plain way fails too, that says why
        return None
    return model


def _plain(tower: Tower, precision: str) -> ir.Model:
    """The graph as torch's exporter makes it of the tower as it is; takes more memory."""
    tower.module.to(_dtype(precision))
    return _traced(tower.module, tower, precision, whole=True)


def _traced(module: Any, tower: Tower, precision: str, whole: bool = False) -> ir.Model:
    """The graph of a tower's module; `whole`: optimised, each block traced by itself."""
    from torch.export import Dim

    from clipperf.graph import once

    given, produced = io_specs(tower)
    axes = {0: Dim("batch", min=1, max=MAX_BATCH)}
    if tower.dynamic_tokens:
        axes[1] = Dim("tokens", min=2, max=tower.spec.context_tokens)

    def trace(module: torch.nn.Module, args: tuple[torch.Tensor, ...], axes: Any) -> ir.Model:
        import torch

        program = torch.onnx.export(
            module,
            args,
            dynamo=True,
            dynamic_shapes=axes,
            opset_version=opset(precision),
            optimize=whole,
            verbose=False,
        )
        if program is None:
            raise ExportError(f"{tower.spec.id} {tower.side}: torch's exporter gave nothing")
        return program.model

    with uncollected():
        args = (tower.example,)
        model = trace(module, args, (axes,)) if whole else once.traced(module, args, (axes,), trace)
    model.graph.inputs[0].name, model.graph.outputs[0].name = given.name, produced.name
    return model


def _finish(
    model: ir.Model, path: Path, takes_bytes: PreprocessSpec | None, features: int | None
) -> None:
    """Put what torch's exporter wrote in a way that every runtime reads well, and save it."""
    import onnx_ir as ir

    shapes.narrow_slices(model)
    shapes.reshape_by_constants(model)
    positions.search_in_floats(model)
    if takes_bytes is not None:
        uint8.take_bytes(model, takes_bytes)
    if features is not None:
        give_features(model, features)
    held = [value.const_value for value in model.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in held if tensor is not None)
    beside = f"{path.name}.data" if size > EXTERNAL_DATA_FROM_BYTES else None
    ir.save(model, path, external_data=beside)


def _dtype(precision: str) -> torch.dtype:
    import torch

    numbers = PRECISIONS.get(precision).floats
    return {FLOAT16: torch.float16, BFLOAT16: torch.bfloat16}.get(numbers, torch.float32)


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

    written = onnx.load(str(path), load_external_data=False).graph
    for spec, value in ((given, written.input[0]), (produced, written.output[0])):
        dims = value.type.tensor_type.shape.dim
        found = tuple(d.dim_value if d.HasField("dim_value") else "dynamic" for d in dims)
        wanted = tuple("dynamic" if isinstance(axis, str) else axis for axis in spec.shape)
        if found != wanted or value.name != spec.name:
            raise ExportError(
                f"{path.name}: {value.name} came out as {found}, expected {spec.name} {wanted}"
            )


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: a trace makes millions of objects and keeps most of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
