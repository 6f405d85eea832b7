"""The buffers of ONNX Runtime's TensorRT-RTX plugin, with the real plugin and without a GPU.

Of CUDA and the driver stubs stand here (`stub_cuda`): device memory is the host's, and copies are
copies. The plugin itself, what it offers of its device, its allocators and its copies are real; so
is ONNX Runtime, which finds a GPU among the system's devices. The plugin cannot load an engine, so
the toy's only operator is left to the CPU, and its session is the plugin's all the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import stub_cuda
from conftest import ROOT

from clipperf.engines import ort_providers as providers
from clipperf.engines.ort_buffers import PluginBuffers
from clipperf.errors import EngineError
from clipperf.system import nvidia

BOUND = """
import ctypes, json
import numpy as np
from onnx import TensorProto, helper
from clipperf.engines import ort_gpu
from clipperf.engines.onnxruntime import library
from clipperf.engines.ort_bound import BoundEngine
from clipperf.engines.ort_buffers import PluginBuffers

value = helper.make_tensor_value_info
body = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])], "toy",
    [value("x", TensorProto.FLOAT, ["batch", 4])], [value("y", TensorProto.FLOAT, ["batch", 3])],
    [helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [2.0] * 12)],
)
model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
(device,) = ort_gpu.plugin_devices()
ort = library()


class Binding:
    '''Binds again with each run: what the CPU reads is copied to it when it is bound.'''

    def __init__(self, session):
        self.real, self.inputs = session.io_binding(), []

    def bind_ortvalue_input(self, name, value):
        self.inputs.append((name, value))

    def bind_ortvalue_output(self, name, value):
        self.real.bind_ortvalue_output(name, value)


class Session:
    def __init__(self):
        options = ort.SessionOptions()
        options.add_provider_for_devices([device], {"nv_op_types_to_exclude": "MatMul"})
        self.real = ort.InferenceSession(model.SerializeToString(), options)
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs

    def io_binding(self):
        return Binding(self.real)

    def run_with_iobinding(self, binding, options):
        for name, value in binding.inputs:
            binding.real.bind_ortvalue_input(name, value)
        self.real.run_with_iobinding(binding.real, options)


stub = ctypes.CDLL(None)
pageable = []


class Watched(PluginBuffers):
    def put(self, buffer, array):
        before = stub.stub_pageable()
        super().put(buffer, array)
        pageable.append(stub.stub_pageable() - before)

    def take(self, buffer, binding):
        before = stub.stub_pageable()
        found = super().take(buffer, binding)
        pageable.append(stub.stub_pageable() - before)
        return found


engine = BoundEngine(Session, ort_gpu.TENSORRT_RTX, Watched(device))
found = []
for rows, given in ((2, 1), (2, 3), (5, 1), (2, 2)):
    found.append(engine.run(np.full((rows, 4), given, np.float32)))
turned = engine.run(np.arange(8, dtype=np.float32).reshape(4, 2).T)
try:
    engine.run(np.ones((2, 4), np.int64))
    refused = ""
except Exception as exc:
    refused = str(exc)
before = stub.stub_pageable()
outside = ort.OrtValue.ortvalue_from_numpy(np.ones((2, 4), np.float32))
memory = PluginBuffers(device)
ort.copy_tensors([outside], [memory.new((2, 4), np.dtype(np.float32)).value])
print(json.dumps({
    "found": [one.tolist() for one in found], "turned": turned.tolist(), "refused": refused,
    "providers": engine._session.real.get_providers(), "pageable": pageable,
    "outside": stub.stub_pageable() - before,
}))
engine.close()
"""


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the script found, and what stood on standard error."""
    folders = nvidia.package_folders(providers.PLUGIN)
    plugin = next((p for f in folders for p in f.glob("libonnxruntime_providers_*.so")), None)
    if plugin is None:
        pytest.skip(f"{providers.PLUGIN_PACKAGE} for Linux is not installed")
    if (tool := stub_cuda.missing_tool()) is not None:
        pytest.skip(f"{tool} is not installed")
    env = stub_cuda.build_plugin(tmp_path_factory.mktemp("plugin"), plugin)
    done = subprocess.run(
        [sys.executable, "-c", BOUND], env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_arrays_reach_the_plugin_s_memory_and_come_back(bound: Any) -> None:
    """A row of four ones times a matrix of twos is 8; each run has an array of its own."""
    told, said = bound
    assert told["providers"][0] == "NvTensorRTRTXExecutionProvider"
    assert told["found"] == [
        [[8.0] * 3] * 2, [[24.0] * 3] * 2, [[8.0] * 3] * 5, [[16.0] * 3] * 2
    ]  # fmt: skip
    assert told["turned"] == [[24.0] * 3, [32.0] * 3], "columns 0 2 4 6 and 1 3 5 7"
    assert "int64" in told["refused"] or "data type" in told["refused"], told["refused"]
    assert "libonnxruntime_providers_cuda" not in said, "the CUDA provider need not be there"


def test_copies_are_from_and_to_pinned_memory(bound: Any) -> None:
    told, _ = bound
    assert len(told["pageable"]) == 2 * 5 + 1, "five runs, and one that was refused"
    assert not any(told["pageable"])
    assert told["outside"] == 1, "other memory is told apart"


def test_a_plugin_without_memory_to_bind_is_said() -> None:
    device = SimpleNamespace(ep_name="ToyProvider", memory_info=lambda kind: None)
    with pytest.raises(EngineError, match="ToyProvider offers no device memory to bind"):
        PluginBuffers(device)
