"""ONNX Runtime's TensorRT provider.

TensorRT multiplies fp32 as TF32 where the GPU can, and the provider has no option against it, so
what it runs is not fp32.
"""

from __future__ import annotations

from clipperf.engines import ort_gpu
from clipperf.engines import ort_providers as providers
from clipperf.engines.contract import Runtime

RUNTIME = Runtime(
    "ort-trt",
    "onnx",
    ("tf32", "fp16"),
    ("cuda",),
    providers.tensorrt_availability,
    ort_gpu.open_tensorrt,
)
