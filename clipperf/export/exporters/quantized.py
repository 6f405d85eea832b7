"""ONNX graphs in int8 and fp8, made from the floating ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clipperf.export import derived
from clipperf.export.exporter import Below, Exporter
from clipperf.export.job import Built, Job, Tell
from clipperf.graph import quantize
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side, Variant

PACKAGES = ("onnx", "onnxruntime-gpu")
"""What changes the bytes."""


def key(spec: ModelSpec, side: Side, variant: Variant, below: Below) -> str:
    """See `Exporter`; how far a CPU's weights reach depends on this machine's."""
    method = quantize.method_of(variant.row)
    most = quantize.weight_max(variant.row, variant.portable)
    return derived.key(variant, below, method, PACKAGES, most)


def choose(variant: Variant, values: Mapping[str, Any]) -> Variant:
    """See `Choices`: samples that are given fix the scales."""
    fixed = variant.row.fixed if "calibrate" in values else None
    settings = derived.QuantizeSettings(**values)
    return replace(variant, precision=fixed or variant.precision, settings=settings)


def make(job: Job, tell: Tell) -> Built:
    """See `Exporter`."""
    from clipperf.export.jobs import derive

    return derive.quantised(job, tell, derive.OnnxQuantizer)


EXPORTER = Exporter(
    name="quantized",
    makes={"onnx": ("int8", "int8-row", "int8-static", "int8-fp16", "fp8")},
    file="model.onnx",
    key=key,
    job=make,
    complete=derived.complete,
    needs=derived.needs,
    refusal=derived.refusal,
    choices=replace(derived.CHOICES, choose=choose),
    features=True,
)
