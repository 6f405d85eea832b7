"""OpenVINO on the CPU."""

from __future__ import annotations

from clipperf.engines import openvino
from clipperf.engines.contract import Runtime

RUNTIME = Runtime(
    "openvino",
    "openvino",
    ("fp32", "bf16", "int8w", "int8", "int8-bf16"),
    ("cpu",),
    openvino.availability,
    openvino.open,
    streams=True,
    features=True,
)
