"""What this machine can do at most: GEMM throughput in fp32 and int8, and memory bandwidth.

    python benchmarks/roofline.py [--threads 2] [--json]

GEMM: square matrices, where nothing but the multiplier units should count, through ONNX Runtime
and torch; the faster is the peak. Two operations a multiply-add. Bandwidth: reading and copying
arrays far larger than the last cache; a copy reads and writes. Each figure is the best of several
runs, as a ceiling must be, of calls that take turns.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from clipperf.bench import cost
from clipperf.engines.onnxruntime import library

SIZE = 2048
ARRAY_BYTES = 2**29
ROUNDS = 8


def main() -> None:
    """Measure and print, as text or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    found = measure(options.threads)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<28} {value / 1e9:8.1f} G/s")


def measure(threads: int) -> dict[str, float]:
    """Operations a second ("..._flops") and bytes a second ("..._bytes") by name."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    array = torch.ones(ARRAY_BYTES // 4)
    target = torch.empty_like(array)
    operations = 2.0 * SIZE**3
    calls: dict[str, tuple[float, Callable[[], Any]]] = {
        "fp32_torch_flops": (operations, lambda: torch.mm(a, b)),
        "fp32_onnxruntime_flops": (operations, matmul("fp32", threads)),
        "int8_onnxruntime_flops": (operations, matmul("int8", threads)),
        "read_bytes": (ARRAY_BYTES, array.sum),
        "copy_bytes": (2 * ARRAY_BYTES, lambda: target.copy_(array)),
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, (_, call) in calls.items():
            # A thread pool that spins takes cycles from the next; asleep it does not.
            samples = cost.time_block(
                lambda _, call=call: call(),  # type: ignore[misc]
                np.zeros(0), warmup=1, calls=3, min_s=0.0, sleep_s=0.1,
            )  # fmt: skip
            best[name] = min(best[name], *samples)
    return {name: work / best[name] for name, (work, _) in calls.items()}


def matmul(kind: str, threads: int) -> Callable[[], Any]:
    """A square product with constant weights in ONNX Runtime, as a layer of a tower is."""
    onnxruntime = library()
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    if kind == "fp32":
        left = rng.random((SIZE, SIZE), np.float32)
        right = rng.random((SIZE, SIZE), np.float32)
        node, given, gives = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
    else:
        left = rng.integers(0, 128, (SIZE, SIZE), np.uint8)
        right = rng.integers(-64, 64, (SIZE, SIZE), np.int8)
        node, given, gives = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(node, ["left", "right"], ["product"])],
        "gemm",
        [helper.make_tensor_value_info("left", given, [SIZE, SIZE])],
        [helper.make_tensor_value_info("product", gives, [SIZE, SIZE])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"left": left})


def peaks(*runs: dict[str, float]) -> dict[str, float]:
    """The ceilings of several runs: "fp32" and "int8" operations, "read" bytes, "copy" bytes."""

    def top(word: str) -> float:
        return max(value for run in runs for name, value in run.items() if name.startswith(word))

    return {word: top(word) for word in ("fp32", "int8", "read", "copy")}


def bound_s(batch: int, operations: float, weight_bytes: float, peak: float, read: float) -> float:
    """The least seconds of one call: the multiplications, or reading the weights once."""
    return max(batch * operations / peak, weight_bytes / read)


if __name__ == "__main__":
    main()
