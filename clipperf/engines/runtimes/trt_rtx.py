"""TensorRT for RTX: plans that an export built."""

from __future__ import annotations

from functools import partial

from clipperf.engines.contract import Runtime
from clipperf.engines.tensorrt import engine, flavours

RUNTIME = Runtime(
    "trt-rtx",
    "trt-rtx",
    flavours.PRECISIONS,
    ("cuda",),
    partial(engine.availability, "trt-rtx"),
    engine.open,
    by_handle=True,
)
