"""NVML as it once answered: traces replayed below the real Python bindings, in the C library.

A trace is a file of JSON lines, one call each:

    {"at_s": 0.015, "call": "nvmlDeviceGetPowerUsage", "handle": "GPU-1", "answer": 71000}
    {"at_s": 0.03, "call": "nvmlDeviceGetPowerUsage", "handle": "GPU-1", "error": "GPU_IS_LOST"}

`call` is the library's function, `handle` the GPU's UUID ("" where a function takes none), `answer`
what it writes, in NVML's units and names (of processes: [pid, bytes or null]), `error` one of
NVML's codes (``NVML_ERROR_...``). A call is answered by its last line until then; one that the
trace does not have is a function that the driver lacks. "//" begins a comment.

The trace's clock is that of the sampler, too: each of its readings comes at the next time of the
trace from 0 on, the last time standing still. Times below 0 are before it begins to read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

LIBRARY = """
import ctypes, importlib.machinery, itertools, json, os, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ELSEWHERE = [path for path in sys.path if Path(path or ".").resolve() != HERE]
SPEC = importlib.machinery.PathFinder.find_spec("pynvml", ELSEWHERE)
exec(compile(Path(SPEC.origin).read_text(), SPEC.origin, "exec"), globals())

LINES = [
    json.loads(line)
    for line in (HERE / "trace.jsonl").read_text().splitlines()
    if line and not line.startswith("//")
]
TIMES = sorted({line["at_s"] for line in LINES})
HANDLES = sorted({line["handle"] for line in LINES if line["handle"]})
NOW = TIMES[0]
AHEAD = [time for time in TIMES if time >= 0]

def stopwatch():
    global NOW
    NOW = AHEAD[0]

    def elapsed_s():
        global NOW
        NOW = AHEAD.pop(0) if len(AHEAD) > 1 else AHEAD[0]
        with (HERE / "readings.log").open("a") as log:
            log.write("x")
        return NOW
    return elapsed_s

def address(handle):
    return ctypes.cast(handle, ctypes.c_void_p).value

def last(call, name):
    said = [
        line for line in LINES
        if (line["call"], line["handle"]) == (call, name) and line["at_s"] <= NOW
    ]
    return said[-1] if said else {"error": "FUNCTION_NOT_FOUND"}

def write(call, answer, arguments):
    if call == "nvmlDeviceGetMemoryInfo":
        for name, value in answer.items():
            setattr(arguments[1]._obj, name, value)
    elif call == "nvmlDeviceGetComputeRunningProcesses_v3":
        _, count, room = arguments
        count._obj.value = len(answer)
        if answer and room is None:
            return NVML_ERROR_INSUFFICIENT_SIZE
        for place, (pid, used) in zip(room or (), answer):
            place.pid = pid
            place.usedGpuMemory = NVML_VALUE_NOT_AVAILABLE_ulonglong.value if used is None else used
    elif answer is not None:
        arguments[-1]._obj.value = answer
    return NVML_SUCCESS

def function(call):
    def ask(*arguments):
        if call in ("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByIndex_v2"):
            which = arguments[0].value
            known = {name.encode(): number for number, name in enumerate(HANDLES)}
            number = known.get(which, which)
            if number not in range(len(HANDLES)):
                return NVML_ERROR_NOT_FOUND
            place = ctypes.cast(ctypes.pointer(arguments[1]._obj), ctypes.POINTER(ctypes.c_void_p))
            place[0] = number + 1
            return NVML_SUCCESS
        name = HANDLES[address(arguments[0]) - 1] if call.startswith("nvmlDevice") else ""
        line = last(call, name)
        if "error" in line:
            return globals()["NVML_ERROR_" + line["error"]]
        return write(call, line["answer"], arguments)
    return ask

def _LoadNvmlLibrary():
    pass

_nvmlGetFunctionPointer = function

from clipperf.bench import cost
cost.stopwatch = stopwatch
"""

TRACES = Path(__file__).parent / "bench" / "nvml_traces"

Replay = Callable[[str], Path]


def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replay:
    """Puts a trace before the real library in every process started from here.

    Returns the file that grows by one byte for each reading.
    """
    pytest.importorskip("pynvml", reason="the package nvidia-ml-py is not installed")

    def install(trace: str) -> Path:
        folder = tmp_path / "nvml"
        folder.mkdir()
        (folder / "pynvml.py").write_text(LIBRARY)
        (folder / "trace.jsonl").write_text((TRACES / f"{trace}.jsonl").read_text())
        (folder / "readings.log").touch()
        monkeypatch.setenv("PYTHONPATH", str(folder))
        return folder / "readings.log"

    return install
