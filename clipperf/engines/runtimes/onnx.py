"""ONNX Runtime on the CPU."""

from __future__ import annotations

from clipperf.engines import onnxruntime
from clipperf.engines.contract import Runtime

RUNTIME = Runtime(
    "onnx",
    "onnx",
    ("fp32", "fp16", "int8", "int8-row", "int8-static", "int8-fp16", "fp8"),
    ("cpu",),
    onnxruntime.availability,
    onnxruntime.open,
    streams=True,
    warning=onnxruntime.accuracy_warning,
    by_handle=True,
    features=True,
)
