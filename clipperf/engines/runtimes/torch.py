"""PyTorch eager: the baseline that every other runtime is compared with."""

from __future__ import annotations

from clipperf.engines import pytorch
from clipperf.engines.contract import Runtime

RUNTIME = Runtime(
    "torch",
    None,
    ("fp32", "tf32", "fp16", "bf16"),
    ("cpu", "cuda"),
    pytorch.availability,
    pytorch.open,
    features=True,
)
