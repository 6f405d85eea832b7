"""What this machine can do at most: products of matrices by type, and memory bandwidth.

    python benchmarks/roofline.py [--threads 2] [--json]

Products: square matrices, where nothing but the multiplier units should count, and the largest
layer of ViT-B-32's images at batch 32 ([1600, 768] by [768, 3072]), through PyTorch (oneDNN), ONNX
Runtime and OpenVINO in fp32, bf16 where the processor multiplies it, and int8; the fastest is the
peak. Two operations a multiply-add. Bandwidth: reading and copying arrays far larger than the last
cache; a copy reads and writes. Each figure is the best of several runs, as a ceiling must be, of
calls that take turns. What is not installed has no row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections.abc import Callable
from typing import Any

import asked
import numpy as np

from clipperf.bench import cost
from clipperf.engines import processor
from clipperf.engines.onnxruntime import library
from clipperf.nouns.variant import PRECISIONS

SHAPES = {"square": (2048, 2048, 2048), "layer": (1600, 768, 3072)}
"""Rows, inner and columns of what is multiplied."""

ARRAY_BYTES = 2**29
ROUNDS = 8

Call = Callable[[], Any]


def main() -> None:
    """Measure and print, as text or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=asked.count, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    found = measure(options.threads)
    if options.json:
        print(json.dumps(found))
        return
    print(f"instruction sets: {', '.join(processor.instruction_sets()) or 'none known here'}")
    for name, value in found.items():
        print(f"{name:<34} {value / 1e9:8.1f} G/s")
    for name, value in peaks(found).items():
        print(f"{name + ' at most':<34} {value / 1e9:8.1f} G/s")


def measure(threads: int) -> dict[str, float]:
    """Operations a second ("..._flops") and bytes a second ("..._bytes") by name."""
    import torch

    torch.set_num_threads(threads)
    array = torch.ones(ARRAY_BYTES // 4)
    target = torch.empty_like(array)
    calls: dict[str, tuple[float, Call]] = {
        f"{kind}_{name}_{shape}_flops": (2.0 * rows * inner * columns, call)
        for shape, (rows, inner, columns) in SHAPES.items()
        for kind in kinds()
        for name, call in products(kind, rows, inner, columns, threads).items()
    }
    calls["read_bytes"] = (ARRAY_BYTES, array.sum)
    calls["copy_bytes"] = (2 * ARRAY_BYTES, lambda: target.copy_(array))
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


def kinds() -> list[str]:
    """The types that this processor multiplies."""
    return ["fp32", *(["bf16"] if processor.lacks(PRECISIONS.get("bf16")) is None else []), "int8"]


def products(kind: str, rows: int, inner: int, columns: int, threads: int) -> dict[str, Call]:
    """A product with constant weights by each library that has one in this type."""
    found = {"torch": by_torch(kind, rows, inner, columns)}
    if kind != "bf16":  # of which ONNX Runtime's CPU provider has none
        found["onnxruntime"] = by_onnxruntime(kind, rows, inner, columns, threads)
    if importlib.util.find_spec("openvino") is not None:
        found["openvino"] = by_openvino(kind, rows, inner, columns, threads)
    return found


def by_torch(kind: str, rows: int, inner: int, columns: int) -> Call:
    """PyTorch's own, which oneDNN or MKL computes."""
    import torch

    if kind == "int8":
        a = torch.randint(-64, 64, (rows, inner), dtype=torch.int8)
        b = torch.randint(-64, 64, (inner, columns), dtype=torch.int8)
        return lambda: torch._int_mm(a, b)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    left, right = torch.rand(rows, inner).to(dtype), torch.rand(inner, columns).to(dtype)
    return lambda: torch.mm(left, right)


def by_onnxruntime(kind: str, rows: int, inner: int, columns: int, threads: int) -> Call:
    """Of floats, or of bytes with integers of 32 bits for its result."""
    onnxruntime = library()
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    if kind == "fp32":
        left = rng.random((rows, inner), np.float32)
        right = rng.random((inner, columns), np.float32)
        node, given, gives = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
    else:
        left = rng.integers(0, 128, (rows, inner), np.uint8)
        right = rng.integers(-64, 64, (inner, columns), np.int8)
        node, given, gives = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(node, ["left", "right"], ["product"])],
        "gemm",
        [helper.make_tensor_value_info("left", given, [rows, inner])],
        [helper.make_tensor_value_info("product", gives, [rows, columns])],
        [numpy_helper.from_array(right, "right")],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        _model(graph), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"left": left})


def by_openvino(kind: str, rows: int, inner: int, columns: int, threads: int) -> Call:
    """Of floats in the type of its hint; of 8 bits where both sides pass through them."""
    import openvino
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    left = rng.random((rows, inner), np.float32)
    if kind == "int8":
        nodes = [
            helper.make_node("QuantizeLinear", ["left", "scale", "zero"], ["bytes"]),
            helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["given"]),
            helper.make_node("DequantizeLinear", ["right", "scale"], ["weights"]),
        ]
        right = rng.integers(-64, 64, (inner, columns), np.int8)
        constants = [np.float32(1 / 255), np.uint8(0), right]
        named = list(zip(constants, ("scale", "zero", "right"), strict=True))
    else:
        nodes, given = [], "left"
        named = [(rng.random((inner, columns), np.float32), "weights")]
    given = "given" if kind == "int8" else "left"
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", [given, "weights"], ["product"])],
        "gemm",
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, [rows, inner])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [rows, columns])],
        [numpy_helper.from_array(np.asarray(value), name) for value, name in named],
    )
    core = openvino.Core()
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32",
    }
    request = core.compile_model(
        core.read_model(_model(graph)), "CPU", hints
    ).create_infer_request()
    return lambda: request.infer({0: left}, share_inputs=True)


def _model(graph: Any) -> bytes:
    from onnx import helper

    opsets = [helper.make_opsetid("", 18)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return made


def peaks(*runs: dict[str, float]) -> dict[str, float]:
    """The ceilings of several runs: operations by type, "read" bytes, "copy" bytes."""
    words = dict.fromkeys(name.partition("_")[0] for run in runs for name in run)

    def top(word: str) -> float:
        return max(v for run in runs for name, v in run.items() if name.startswith(f"{word}_"))

    return {word: top(word) for word in words}


def bound_s(batch: int, operations: float, weight_bytes: float, peak: float, read: float) -> float:
    """The least seconds of one call: the multiplications, or reading the weights once."""
    return max(batch * operations / peak, weight_bytes / read)


if __name__ == "__main__":
    asked.run(main)
