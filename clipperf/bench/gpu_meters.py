"""The GPU's meters as the parent sees them: which GPU a cell is on, and the sampler's process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from clipperf.bench import gpu_sampler
from clipperf.bench.gpu_figures import Seen
from clipperf.errors import ChildError, ClipperfError, EngineError, MeasurementError
from clipperf.serialize import from_json
from clipperf.system import gpus
from clipperf.system.child import Child
from clipperf.system.family import family_pids

TIMEOUT_S = 30.0
"""NVML answers in milliseconds; the first call of a driver that was asleep takes seconds."""


def gpu_of(device: str) -> str | None:
    """The UUID of a device such as "cuda" or "cuda:1"; None for others.

    Where NVML knows none it is "cuda's" number, which the sampler will not find either. Several
    devices, with commas, have no meters: which of them a figure is of would not be known.
    """
    if "," in device:
        return None
    kind, _, number = device.partition(":")
    if kind != gpus.CUDA:
        return None
    found = None
    with contextlib.suppress(EngineError):  # of NVML's, which the sampler will meet, too
        found = gpus.uuid_of(device)
    return found or number or "0"


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


def family_vram_bytes(device: str, pid: int) -> int | None:
    """What a process and all that it has started hold of a cell's GPU.

    None where NVML does not say it of processes, or knows none of these (yet). No process on a GPU
    holds 0 bytes of it: that is what NVML says of all of them in some containers.
    """
    gpu = gpu_of(device)
    if gpu is None:
        return None
    try:
        with gpu_sampler.opened(gpu) as found:
            held = [found.process_bytes(each) for each in family_pids(pid)]
    except MeasurementError:
        return None
    return sum(each or 0 for each in held) or None


class GpuSampler:
    """One `bench.gpu_sampler` process. Once it fails it sees nothing, and raises nothing.

    Raises:
        MeasurementError: it cannot be started, or NVML does not work.
    """

    def __init__(self, gpu: str) -> None:
        with contextlib.ExitStack() as on_error:
            try:
                self._child = Child(
                    "clipperf.bench.gpu_sampler",
                    gpu,
                    threads=1,
                    timeout_s=TIMEOUT_S,
                    noun="GPU's sampler",
                )
                on_error.callback(self.close)
                self._child.greet()
            except ChildError as exc:
                raise MeasurementError(str(exc)) from exc
            on_error.pop_all()

    @property
    def pid(self) -> int:
        """The sampler's process id."""
        return self._child.pid

    def begin(self, pid: int | None = None) -> None:
        """Start reading; of memory only where `pid` says whose."""
        with contextlib.suppress(ClipperfError):
            self._child.ask("begin", pid=pid)

    def end(self) -> Seen | None:
        """What was seen since `begin`; None where the sampler failed."""
        try:
            return from_json(Seen, self._child.ask("end"))
        except ClipperfError:
            return None

    def close(self) -> None:
        """End the sampler, which has nothing to lose; safe to call twice."""
        self._child.kill()
        self._child.end()


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
