"""An NVML whose every answer is scripted, for processes that a test starts and for its own."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAKE_NVML = '''
"""Each call takes the next answer of its list in fake.json; the last one is given for ever."""
import json, os
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).parent
SCRIPT = json.loads((HERE / "fake.json").read_text())
CALLS = {}

NVML_CLOCK_SM = 1
NVML_TEMPERATURE_GPU = 0
nvmlClocksEventReasonGpuIdle = 0x1
nvmlClocksEventReasonApplicationsClocksSetting = 0x2
nvmlClocksEventReasonSwPowerCap = 0x4
nvmlClocksEventReasonHwSlowdown = 0x8
nvmlClocksEventReasonSyncBoost = 0x10
nvmlClocksEventReasonSwThermalSlowdown = 0x20
nvmlClocksEventReasonHwThermalSlowdown = 0x40
nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80

class NVMLError(Exception):
    pass

def take(name, handle=None):
    answers = SCRIPT.get(name, ["Not Supported"])
    if isinstance(answers, dict):
        answers = answers.get(handle.name, ["Not Supported"])
    number = CALLS[name] = CALLS.get(name, 0) + 1
    answer = answers[min(number, len(answers)) - 1]
    if isinstance(answer, str):
        raise NVMLError(answer)
    return answer

def nvmlInit():
    if "init" in SCRIPT:
        take("init")

def nvmlShutdown():
    if any(board.facts.get("lost") for board in BOARDS):
        raise NVMLError("Unknown Error")

ONE = {"uuid": "GPU-fake", "title": "Fake GPU", "bus": 1}

def handle_of(facts, board=None):
    handle = SimpleNamespace(name=facts["uuid"], facts=facts)
    handle.board = board or handle
    return handle

BOARDS = [handle_of(facts) for facts in SCRIPT.get("gpus", [ONE])]

def nvmlDeviceGetCount():
    return len(BOARDS)

def nvmlDeviceGetHandleByIndex(index):
    if index >= len(BOARDS):
        raise NVMLError("Invalid Argument")
    if BOARDS[index].facts.get("lost"):
        raise NVMLError("GPU is lost")
    return BOARDS[index]

def slices(board):
    return [each and handle_of(each, board) for each in board.facts["slices"]]

def nvmlDeviceGetHandleByUUID(uuid):
    cut = [each for board in BOARDS if "slices" in board.facts for each in slices(board) if each]
    for handle in [*BOARDS, *cut]:
        if handle.name == uuid:
            return handle
    raise NVMLError("Not Found")

def nvmlDeviceGetUUID(handle):
    return handle.name

def nvmlDeviceGetName(handle):
    return handle.facts["title"]

def nvmlDeviceGetPciInfo(handle):
    return SimpleNamespace(domain=0, bus=handle.facts["bus"], device=0)

def nvmlDeviceGetMigMode(handle):
    if "slices" not in handle.facts:
        raise NVMLError("Not Supported")
    return [1, 1]

def nvmlDeviceGetMaxMigDeviceCount(handle):
    return len(handle.facts["slices"])

def nvmlDeviceGetMigDeviceHandleByIndex(handle, index):
    found = slices(handle)[index]
    if found is None:
        raise NVMLError("Not Found")
    return found

def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle):
    if handle.board is handle:
        raise NVMLError("Invalid Argument")
    return handle.board

def nvmlDeviceGetCudaComputeCapability(handle):
    if handle.board is not handle:
        raise NVMLError("Not Supported")
    return handle.facts.get("capability", (8, 9))

def nvmlSystemGetDriverVersion():
    return SCRIPT.get("driver", "580.1")

def nvmlDeviceGetMemoryInfo(handle):
    total = handle.facts.get("total", 0)
    return SimpleNamespace(used=take("used", handle), free=SCRIPT.get("free", 0), total=total)

def nvmlDeviceGetComputeRunningProcesses(handle):
    return [SimpleNamespace(pid=p, usedGpuMemory=used) for p, used in take("processes", handle)]

def nvmlDeviceGetTotalEnergyConsumption(handle):
    return take("energy_mj", handle)

def nvmlDeviceGetPowerUsage(handle):
    with (HERE / "samples.log").open("a") as log:
        log.write("x")
    return take("power_mw", handle)

def nvmlDeviceGetClockInfo(handle, kind):
    assert kind == NVML_CLOCK_SM
    return take("sm_mhz", handle)

def nvmlDeviceGetTemperature(handle, sensor):
    assert sensor == NVML_TEMPERATURE_GPU
    return take("temperature", handle)

def nvmlDeviceGetCurrentClocksEventReasons(handle):
    return take("reasons", handle)
'''
"""`gpus` are its GPUs in NVML's order: their `uuid`, `title`, place on the `bus`, `total` memory,
`capability`, whether they are `lost`, and their `slices`, None for a place without one. Answers may
be given by UUID."""

Fake = Callable[..., Path]


def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts an NVML with these answers before the real one in every process started from here."""

    def install(**script: Any) -> Path:
        folder = tmp_path / "nvml"
        folder.mkdir()
        (folder / "pynvml.py").write_text(FAKE_NVML)
        (folder / "fake.json").write_text(json.dumps(script))
        (folder / "samples.log").touch()
        monkeypatch.setenv("PYTHONPATH", str(folder))
        return folder / "samples.log"

    return install


def in_this_process(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process ask the NVML whose `fake` was installed, too."""
    spec = importlib.util.spec_from_file_location("pynvml", fake.with_name("pynvml.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    spec.loader.exec_module(module)
