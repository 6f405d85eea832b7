"""A runtime of exactly known cost, which tests the harness."""

from __future__ import annotations

from clipperf.engines import simulated
from clipperf.engines.contract import Runtime

RUNTIME = Runtime(
    "simulated",
    "simulated",
    ("fp32", "fp16", "bf16", "int8"),
    simulated.DEVICES,
    simulated.availability,
    simulated.open,
    streams=True,
)
