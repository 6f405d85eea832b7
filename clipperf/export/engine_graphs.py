"""The ONNX graphs that TensorRT engines are built from, by the engine's precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipperf.engines import contract
from clipperf.export.exporters import onnx, quantized
from clipperf.export.folder import Exported
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PixelDtype, Side

QUANTISED = {"int8": "int8-static", "fp8": "fp8"}
"""Graphs that carry a quantised precision: TensorRT needs the scales to be fixed."""


def can_export(precision: str) -> bool:
    """Whether there is a graph for engines of this precision."""
    return precision in QUANTISED or contract.graph_precision(precision) in onnx.PRECISIONS


def export_graph(
    spec: ModelSpec,
    sides: Sequence[Side],
    precision: str,
    normalized: bool,
    pixel_dtype: PixelDtype,
    on_stage: Callable[[str], None],
) -> Exported:
    """Make sure that the graphs exist; raises as `export_model` and `export_derived`."""
    if precision in QUANTISED:
        settings = _settings(precision, pixel_dtype)
        return quantized.export_derived(
            spec, sides, settings, normalized=normalized, on_stage=on_stage
        )
    graph = contract.graph_precision(precision)
    return onnx.export_model(
        spec, sides, graph, normalized=normalized, pixel_dtype=pixel_dtype, on_stage=on_stage
    )


def graph_key(
    spec: ModelSpec, weights_id: str, side: Side, precision: str, pixel_dtype: PixelDtype
) -> str:
    """The key of the graph, not normalised, that `export_graph` gives now."""
    if precision in QUANTISED:
        settings = _settings(precision, pixel_dtype)
        graph = settings.recipe.graph
        source = onnx.cache_key(spec, weights_id, side, graph, False, pixel_dtype)
        return quantized.cache_key(source, settings)
    graph = contract.graph_precision(precision)
    return onnx.cache_key(spec, weights_id, side, graph, False, pixel_dtype)


def _settings(precision: str, pixel_dtype: PixelDtype) -> quantized.Settings:
    return quantized.Settings(onnx.RUNTIME, QUANTISED[precision], pixel_dtype=pixel_dtype)
