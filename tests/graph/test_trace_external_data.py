"""Large weights lie beside their graph: readable, complete, and without a change in results."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest

from clipperf.engines.onnxruntime import open_session
from clipperf.graph import quantize
from clipperf.graph import trace as onnx_export

WIDTH = 64


def model() -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [value("x", 1, ["batch", WIDTH])],
        [value("y", 1, ["batch", WIDTH])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def save_exported(path: Path) -> None:
    onnx_export._finish(onnx_ir.from_proto(model()), path, None, None)


def save_quantised(path: Path) -> None:
    quantize.save(model(), path)


@pytest.mark.parametrize("save", [save_exported, save_quantised])
def test_weights_lie_beside_the_graph_from_a_size_on(
    save: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = np.random.default_rng(1).standard_normal((3, WIDTH), np.float32)
    found = []
    for name, limit in (("inside", WIDTH * WIDTH * 8), ("beside", WIDTH * WIDTH * 2)):
        for module in (onnx_export, quantize):
            monkeypatch.setattr(module, "EXTERNAL_DATA_FROM_BYTES", limit)
        folder = tmp_path / name
        folder.mkdir()
        save(folder / "model.onnx")
        found.append(open_session(folder / "model.onnx", 1).run(inputs))
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["model.onnx"]
    graph, data = sorted((tmp_path / "beside").iterdir())
    assert data.name == "model.onnx.data"
    assert data.stat().st_size >= WIDTH * WIDTH * 4 > graph.stat().st_size
    assert stat.S_IMODE(data.stat().st_mode) == stat.S_IMODE(graph.stat().st_mode)
    np.testing.assert_array_equal(*found)
