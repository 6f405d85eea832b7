"""ONNX Runtime on the CPU: what becomes of a graph that it cannot take."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from clipperf.engines.onnxruntime import open_session
from clipperf.errors import EngineError


def test_a_message_with_damaged_bytes_is_an_error_in_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Unheard", ["x"], ["y"])
    graph = helper.make_graph([node], "damaged", [value], [result])
    path = tmp_path / "damaged.onnx"
    opsets = [helper.make_opsetid("", 18)]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.write_bytes(data.SerializeToString().replace(b"Unheard", b"Unhe\xa0rd"))
    said = r"cannot load .*damaged\.onnx: .*Unhe\N{REPLACEMENT CHARACTER}rd"
    with pytest.raises(EngineError, match=said):
        open_session(path, threads=1)
    assert capfd.readouterr().out == ""
