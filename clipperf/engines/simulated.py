"""A runtime whose cost is exactly known: it proves the measuring harness, and fails on request.

`request.path` names a JSON file with any of the fields of `Script`. Users cannot choose this
runtime; the tests and `bench.launchers.local` do.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipperf.engines.contract import Availability
from clipperf.errors import EngineError, UnsupportedError
from clipperf.nouns.cell import EngineRequest, Phases

SPIN_S = 2e-3
"""How long before its deadline a wait stops sleeping and spins: more than a usual overshoot."""

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Script:
    """What the engine does. Seconds and bytes.

    `load_bytes` stay until `close`; `run_bytes` are freed after each run. `fail_at` is "load",
    "run" or "run:N" (the Nth run, from 1). There `how` decides: "error" raises EngineError,
    "unsupported" raises UnsupportedError, "segfault" reads address 0, "exit" ends the process
    with `exit_code`, "signal" sends itself `exit_code` as a signal, "hang" never returns,
    "nan" and "shape" return a wrong array. `jitter_s` adds uniformly drawn seconds to each run.
    `prints` writes to standard output, and `fake_modules` are put into `sys.modules`.
    `phases_s` (copy in, compute, copy out) and `allocated_bytes` are what a GPU engine would tell.
    """

    load_s: float = 0.0
    load_bytes: int = 0
    run_s: float = 0.0
    run_bytes: int = 0
    jitter_s: float = 0.0
    embed_dim: int | None = None
    fail_at: str | None = None
    how: str = "error"
    exit_code: int = 3
    prints: str = ""
    fake_modules: tuple[str, ...] = ()
    phases_s: tuple[float, float, float] | None = None
    allocated_bytes: int | None = None


def availability(device: str) -> Availability:
    """Always usable."""
    return Availability(device in DEVICES, "simulated")


def open(request: EngineRequest) -> SimulatedEngine:
    """Read the script and pay its load cost.

    Raises:
        EngineError: there is no readable script, or the script says so.
    """
    if request.path is None:
        raise EngineError("the simulated runtime needs the path of a JSON script")
    try:
        script = Script(**json.loads(Path(request.path).read_text()))
    except (OSError, ValueError, TypeError) as exc:
        raise EngineError(f"bad script {request.path}: {exc}") from exc
    embed_dim = script.embed_dim or request.spec.embed_dim
    return SimulatedEngine(script, embed_dim, request.cell.streams)


class SimulatedEngine:
    """Waits and allocates exactly what its script says."""

    provider = "SimulatedExecutionProvider"

    def __init__(self, script: Script, embed_dim: int, streams: int = 1) -> None:
        deadline = time.perf_counter() + script.load_s
        self.streams = streams
        self._script = script
        self._embed_dim = embed_dim
        self._runs = 0
        self._rng = np.random.default_rng(0)
        for name in script.fake_modules:
            sys.modules[name] = types.ModuleType(name)
        if script.prints:
            print(script.prints, flush=True)
            os.write(1, script.prints.encode() + b"\n")
        if script.phases_s is not None:
            self.run_phases = self._run_phases
        self._kept = touched(script.load_bytes)
        if script.fail_at == "load":
            misbehave(script)
        wait_until(deadline)

    def run(self, array: np.ndarray) -> np.ndarray:
        """Zeros, float32 [batch, embed_dim], after exactly `run_s` (plus the jitter)."""
        script = self._script
        deadline = time.perf_counter() + script.run_s
        if script.jitter_s:
            deadline += script.jitter_s * self._rng.random()
        self._runs += 1
        held = touched(script.run_bytes)
        if script.fail_at in ("run", f"run:{self._runs}"):
            if script.how == "nan":
                return np.full((len(array), self._embed_dim), np.nan, dtype=np.float32)
            if script.how == "shape":
                return np.zeros((len(array), self._embed_dim + 1), dtype=np.float32)
            misbehave(script)
        if held is not None:
            held.close()
        wait_until(deadline)
        return np.zeros((len(array), self._embed_dim), dtype=np.float32)

    def _run_phases(self, array: np.ndarray) -> tuple[np.ndarray, Phases]:
        """As `run`, with the phases of the script."""
        assert self._script.phases_s is not None
        return self.run(array), Phases(*self._script.phases_s)

    def allocated_bytes(self) -> int | None:
        """What the script says."""
        return self._script.allocated_bytes

    def close(self) -> None:
        """Give the load bytes back."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def touched(size: int) -> mmap.mmap | None:
    """Anonymous memory of which every page is resident; malloc would round and keep it."""
    if size <= 0:
        return None
    memory = mmap.mmap(-1, size)
    np.frombuffer(memory, dtype=np.uint8)[:: mmap.PAGESIZE] = 1
    return memory


def wait_until(deadline: float) -> None:
    """Sleep to just before the deadline, then spin: a sleep alone overshoots by up to 1 ms."""
    while (left := deadline - time.perf_counter()) > 0:
        if left > SPIN_S:
            time.sleep(left - SPIN_S)


def misbehave(script: Script) -> None:
    """End in the way the script asks for."""
    if script.how == "unsupported":
        raise UnsupportedError("simulated: this cell is not supported")
    if script.how == "segfault":
        ctypes.string_at(0)
    if script.how == "exit":
        os._exit(script.exit_code)
    if script.how == "signal":
        os.kill(os.getpid(), script.exit_code)
    if script.how == "hang":
        while True:
            time.sleep(3600)
    if script.how == "raise":
        raise ValueError("simulated: an error that the engine did not translate")
    raise EngineError("simulated: told to fail")
