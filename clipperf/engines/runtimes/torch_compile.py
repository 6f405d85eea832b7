"""PyTorch behind torch.compile."""

from __future__ import annotations

from functools import partial

from clipperf.engines import pytorch
from clipperf.engines.contract import Runtime

RUNTIME = Runtime(
    "torch-compile",
    None,
    ("fp32", "tf32", "fp16", "bf16"),
    ("cpu", "cuda"),
    pytorch.compile_availability,
    partial(pytorch.open, prepare=pytorch.compiled),
)
