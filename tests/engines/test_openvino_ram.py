"""Large weights are in RAM once: as OpenVINO has laid them out, not as the file has them, too."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="needs the extra openvino")

import openvino
from openvino import opset13 as ops

from clipperf.engines import openvino as engines
from clipperf.engines import openvino_cache
from clipperf.errors import EngineError
from clipperf.system.processes import status_bytes

WIDTH, LAYERS = 2048, 9
ALLOWANCE_BYTES = 150e6

CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from clipperf.engines import openvino
from clipperf.system.processes import status_bytes

if sys.argv[2] == "mapped by openvino":
    openvino.LEAN_BYTES = 2**60
engine = openvino.open_compiled(Path(sys.argv[1]), 1)
load = status_bytes("VmHWM")
inputs = np.random.default_rng(0).standard_normal((8, 2048)).astype(np.float32)
found = [engine.run(inputs[:rows]).tolist() for rows in (8, 1, 3, 8)]
print(json.dumps([load, status_bytes("VmHWM"), found]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products with 151 MB of seeded fp32 weights, any number of rows."""
    rng = np.random.default_rng(0)
    value = given = ops.parameter([-1, WIDTH], np.float32)
    for _ in range(LAYERS):
        weights = rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
        value = ops.relu(ops.matmul(value, ops.constant(weights), False, True))
    path = tmp_path_factory.mktemp("ir") / "model.xml"
    openvino.save_model(openvino.Model([value], [given]), path, compress_to_fp16=False)
    return path


def peaks(model: Path, kind: str) -> tuple[int, int, list[list[list[float]]]]:
    """Of loading, and of all, in a fresh process; and what it computed."""
    command = [sys.executable, "-c", CHILD, str(model), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    load, peak, found = json.loads(done.stdout)
    return load, peak, found


@pytest.mark.skipif(
    sys.platform != "linux" or status_bytes("VmHWM") is None, reason="needs Linux's VmHWM"
)
def test_a_worker_holds_its_large_weights_once(model: Path) -> None:
    weights = openvino_cache.weights_of(model).stat().st_size
    assert weights > engines.LEAN_BYTES
    load, peak, found = peaks(model, "lean")
    _, twice, expected = peaks(model, "mapped by openvino")
    assert found == expected, "not the same bits"
    assert np.isfinite(found[0]).all() and np.any(found[0])
    assert load - weights < ALLOWANCE_BYTES and peak - weights < ALLOWANCE_BYTES
    assert twice - peak > 0.7 * weights, "OpenVINO's own mapping is not held beside its copy"


def test_an_engine_that_is_closed_lets_go_of_the_file(model: Path) -> None:
    with closing(engines.open_compiled(model, 1)) as engine:
        assert engine.run(np.ones((2, WIDTH), np.float32)).shape == (2, WIDTH)
        with pytest.raises(EngineError, match="openvino: "):
            engine.run(np.ones((2, 7), np.float32))
        engine.run(np.ones((1, WIDTH), np.float32))
        assert is_mapped(model)
    with pytest.raises(EngineError, match="closed"):
        engine.run(np.ones((2, WIDTH), np.float32))
    assert not is_mapped(model)


def is_mapped(model: Path) -> bool:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux's /proc")
    return str(openvino_cache.weights_of(model)) in maps.read_text()


@pytest.mark.parametrize("damage", ["cut", "xml"])
def test_damage_of_a_large_model_is_an_error(model: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.xml"
    text = model.read_text()
    path.write_text(text[: len(text) // 2] if damage == "xml" else text)
    with openvino_cache.weights_of(model).open("rb") as file:
        openvino_cache.weights_of(path).write_bytes(file.read(engines.LEAN_BYTES + 12345))
    with pytest.raises(EngineError, match=r"openvino cannot load .*model\.xml"):
        engines.open_compiled(path, 1)
