"""ONNX Runtime's TensorRT-RTX plugin; of its precisions see `ort_trt`."""

from __future__ import annotations

from clipperf.engines import ort_gpu
from clipperf.engines import ort_providers as providers
from clipperf.engines.contract import Runtime

RUNTIME = Runtime(
    "ort-trt-rtx",
    "onnx",
    ("tf32", "fp16"),
    ("cuda",),
    providers.tensorrt_rtx_availability,
    ort_gpu.open_tensorrt_rtx,
)
