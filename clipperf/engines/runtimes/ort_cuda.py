"""ONNX Runtime's CUDA provider."""

from __future__ import annotations

from clipperf.engines import ort_gpu
from clipperf.engines import ort_providers as providers
from clipperf.engines.contract import Runtime

RUNTIME = Runtime(
    "ort-cuda",
    "onnx",
    ("fp32", "tf32", "fp16"),
    ("cuda",),
    providers.cuda_availability,
    ort_gpu.open_cuda,
)
