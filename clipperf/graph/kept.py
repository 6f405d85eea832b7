"""The graph of a tower without its weights: traced once for an architecture, then kept.

A graph depends on the architecture, not on the values of its weights. It is traced with fake
tensors, which have shapes and no storage, and optimised with the weights as inputs of the graph,
so that nothing can be folded into it. `weights.fill` puts a checkpoint's tensors in.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.errors import StorageError
from clipperf.graph import shapes
from clipperf.models.family import family_of
from clipperf.nouns.model import ModelSpec, Tower
from clipperf.system import store
from clipperf.system.env import version_of
from clipperf.system.files import digest_of, replacing
from clipperf.system.sealed import GRAPH_MARK, SUM_BYTES, sealed, unsealed

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

BUILT_WITH = ("torch", "onnx", "onnx-ir", "onnxscript")
"""Packages whose version can change a graph, beside those of a model's family."""

MARK_BYTES = len(GRAPH_MARK) + SUM_BYTES


def versions(spec: ModelSpec) -> dict[str, str | None]:
    """The versions of all packages that can change a graph of a model."""
    return {name: version_of(name) for name in (*BUILT_WITH, *family_of(spec).packages)}


def key(
    config: dict[str, Any], tower: Tower, normalized: bool, precision: str, opset: int, recipe: int
) -> str:
    """A digest of everything that a graph depends on; `config` is the model configuration."""
    spec = tower.spec
    return digest_of(
        "graph", recipe, spec.family, config, tower.side, spec.image_px, spec.context_tokens,
        spec.embed_dim, normalized, tower.start_id is not None, tower.dynamic_tokens,
        precision, opset, versions(spec),
    )  # fmt: skip


def kept(key: str) -> ir.Model | None:
    """The graph kept under `key`; None where there is none, or none that can be read."""
    import onnx
    import onnx_ir as ir

    try:
        graph = unsealed(_path(key).read_bytes(), GRAPH_MARK)
        # A damaged one is an absent one, whatever its parser would say of it.
        return None if graph is None else ir.from_proto(onnx.load_model_from_string(graph))
    except Exception:  # noqa: BLE001 - protobuf's and onnx_ir's errors have no common kind
        return None


def keep(key: str, model: ir.Model) -> None:
    """Keep a graph under `key`, whole or not at all; nothing where it cannot be written."""
    import onnx_ir as ir

    graph = ir.to_proto(model).SerializeToString()
    with contextlib.suppress(StorageError), replacing(_path(key)) as temporary:
        temporary.write_bytes(sealed(graph, GRAPH_MARK))


def forget(key: str) -> None:
    """Keep no graph under `key` any longer."""
    with contextlib.suppress(OSError):
        _path(key).unlink()


def _path(key: str) -> Path:
    return store.home() / "graphs" / f"{key}.onnx"


def without_values(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of a module in `dtype` whose parameters and stored buffers are fake tensors."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    copies: dict[int, Any] = {}
    for buffer in module.buffers():
        copies[id(buffer)] = buffer.to(dtype) if buffer.is_floating_point() else buffer
    for tensor in module.state_dict(keep_vars=True).values():
        with mode:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            fake = torch.empty(tensor.shape, dtype=kind)
        if isinstance(tensor, torch.nn.Parameter):
            fake = torch.nn.Parameter(fake, requires_grad=False)
        copies[id(tensor)] = fake
    return copy.deepcopy(module, copies)


def take_out_weights(model: ir.Model, module: torch.nn.Module) -> None:
    """Optimise a graph traced `without_values`; its weights become inputs, named as in the module.

    Raises:
        ValueError: the graph holds other values that the trace could not know.
    """
    import torch

    graph = model.graph
    for name in module.state_dict(keep_vars=True):
        if name in graph.initializers:
            weight = graph.initializers.pop(name)
            weight.const_value = None
            graph.inputs.append(weight)
    for name, value in graph.initializers.items():
        if isinstance(getattr(value.const_value, "raw", None), torch._subclasses.FakeTensor):
            raise ValueError(f"{name} has no value")
    _optimise(model)


def _optimise(model: ir.Model) -> None:
    """What `onnxscript.optimizer.optimize_ir` does, in a quarter of the time.

    One rewrite rule is left out: joining two slices to a split gains nothing, and it looks at every
    pair of nodes.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common
    from onnxscript import optimizer, rewriter

    common.InlinePass()(model)
    shapes.sizes_of_input(model)
    rules = [r for r in rewriter._DEFAULT_REWRITE_RULES if r.name != "SlicesSplit"]
    for _ in range(2):
        optimizer.fold_constants_ir(model, onnx_shape_inference=True)
        rewriter.RewritePass(rules)(model)
        common.RemoveUnusedNodesPass()(model)
    ir.passes.Sequential(
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
