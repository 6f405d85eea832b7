"""Which operators ONNX Runtime's CUDA provider takes, decided by the real one without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stub_cuda
from conftest import ROOT, store_of
from onnx import TensorProto, helper, save

from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.variant import Variant
from clipperf.system import nvidia

PLACES = """
import json, sys
from clipperf.engines import ort_gpu
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest

spec = zoo.resolve("clipperf-sample")
found = []
for path in sys.argv[1:]:
    cell = Cell(spec.id, "image", "ort-cuda", "fp32", "cuda", 8, 1)
    engine = ort_gpu.open_cuda(EngineRequest(cell, spec, path))
    parts = engine._session.get_provider_graph_assignment_info()
    nodes = [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]
    there = [op for name, op in nodes if name != ort_gpu.CUDA]
    found.append([engine.takes_graphs, len(nodes), sorted(there)])
print(json.dumps(found))
"""

Places = Callable[..., list[tuple[bool, int, list[str]]]]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Of each model file: whether it takes CUDA graphs, its nodes, those that are not on a GPU."""
    folders = nvidia.package_folders("onnxruntime")
    provider = next(
        (p for f in folders for p in f.glob("capi/libonnxruntime_providers_cuda.so")), None
    )
    if provider is None:
        pytest.skip("onnxruntime-gpu for Linux is not installed")
    if (tool := stub_cuda.missing_tool()) is not None:
        pytest.skip(f"{tool} is not installed")
    env = stub_cuda.build(tmp_path_factory.mktemp("stub"), provider)

    def found(*paths: Path) -> list[tuple[bool, int, list[str]]]:
        done = subprocess.run(
            [sys.executable, "-c", PLACES, *map(str, paths)],
            env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "EP device" not in done.stderr + done.stdout
        assert "graph capture" not in done.stderr + done.stdout
        return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]

    return found


def test_every_tower_may_become_a_cuda_graph(
    places: Places, sample_in: Callable[[str], Path], home: Path
) -> None:
    folders = [sample_in("fp32"), sample_in("fp16")]
    store_of(folders[0], home)
    spec = zoo.resolve("clipperf-sample")
    bytes_in = make(spec, ("image",), Variant("onnx", "fp16", pixel_dtype="uint8")).folder
    files = [folder / side / "model.onnx" for folder in folders for side in ("image", "text")]
    files.append(bytes_in / "image" / "model.onnx")
    for path, (takes_graphs, nodes, elsewhere) in zip(files, places(*files), strict=True):
        assert takes_graphs, path
        assert nodes > 50
        # Sizes are read on the CPU, before anything is put on the GPU.
        assert set(elsewhere) <= {"Squeeze", "Concat"}, path


def test_a_tower_with_parts_on_the_cpu_is_opened_without_graphs(
    places: Places, tmp_path: Path
) -> None:
    """The largest of integers is one: the CUDA provider has no kernel for it."""
    value = helper.make_tensor_value_info
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [1.0] * 16)
    nodes = [
        helper.make_node("ArgMax", ["ids"], ["at"], axis=1, keepdims=0),
        helper.make_node("Gather", ["w", "at"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "toy",
        [value("ids", TensorProto.INT64, ["batch", 3])],
        [value("y", TensorProto.FLOAT, ["batch", 4])], [matrix],
    )  # fmt: skip
    path = tmp_path / "toy.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    assert places(path) == [(False, 3, ["ArgMax"])]
