"""The GPU's meters as the parent sees them: which GPU a cell is on, and the sampler's process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from clipperf.bench import gpu_sampler
from clipperf.bench.gpu_sampler import Seen
from clipperf.bench.process import worker_environment
from clipperf.errors import MeasurementError

TIMEOUT_S = 30.0
"""NVML answers in milliseconds; the first call of a driver that was asleep takes seconds."""


def gpu_of(device: str) -> str | None:
    """NVML's name of a device such as "cuda" or "cuda:1": a number or a UUID; None for others.

    CUDA numbers the devices of CUDA_VISIBLE_DEVICES, NVML all of them.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return None
    wanted = int(number) if number.isdigit() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    listed = [part.strip() for part in visible.split(",") if part.strip()]
    return listed[wanted] if wanted < len(listed) else str(wanted)


def available_vram_bytes(device: str) -> int | None:
    """Free memory of a cell's GPU; None on the CPU and where NVML does not work."""
    gpu = gpu_of(device)
    if gpu is None:
        return None
    try:
        with gpu_sampler.opened(gpu) as found:
            return found.free_bytes()
    except MeasurementError:
        return None


class GpuSampler:
    """One `bench.gpu_sampler` process. Once it fails it sees nothing, and raises nothing.

    Raises:
        MeasurementError: it cannot be started, or NVML does not work.
    """

    def __init__(self, gpu: str) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "clipperf.bench.gpu_sampler", gpu],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=worker_environment(1),
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as exc:
            raise MeasurementError(f"the GPU's sampler cannot be started: {exc}") from exc
        greeting = self._answer()
        if greeting["status"] != "ok":
            self.close()
            raise MeasurementError(greeting["error"])

    @property
    def pid(self) -> int:
        """The sampler's process id."""
        return self._process.pid

    def begin(self, pid: int | None = None) -> None:
        """Start reading; of memory only where `pid` says whose."""
        self._ask("begin", pid=pid)

    def end(self) -> Seen | None:
        """What was seen since `begin`; None where the sampler failed."""
        answer = self._ask("end")
        if answer.pop("status") != "ok":
            return None
        for name in ("sm_clock_mhz", "throttle"):
            answer[name] = None if answer[name] is None else tuple(answer[name])
        return Seen(**answer)

    def close(self) -> None:
        """End the sampler, which has nothing to lose; safe to call twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _ask(self, op: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        # One that is dead is noticed by `_answer`, which finds its end.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """The next line; a sampler that says nothing in time is killed, which ends the read."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            return {"status": "failed", "error": "the GPU's sampler died"}
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def sampler(device: str) -> Iterator[GpuSampler | None]:
    """A sampler for a cell's GPU; None (and no process) on the CPU or where NVML does not work."""
    gpu = gpu_of(device)
    found: GpuSampler | None = None
    if gpu is not None:
        with contextlib.suppress(MeasurementError):
            found = GpuSampler(gpu)
    try:
        yield found
    finally:
        if found is not None:
            found.close()
