"""The GPU's meters, in a process of their own, so that the measured one is left alone.

Run as ``python -m clipperf.bench.gpu_sampler DEVICE``, DEVICE being NVML's number of a GPU or its
UUID; `system.protocol` says how it is spoken to. The sampler greets once it has found the GPU and
noted how much of its memory is in use (the baseline), or says why it cannot and ends. Between
"begin" and "end" it reads NVML every `PERIOD_S`; otherwise it sits in a blocking read.

=========  ======  ===========================================================
operation  fields  answer
=========  ======  ===========================================================
begin      pid     (empty) pid is whose memory to read, or null to read none
end                the fields of `Seen`
=========  ======  ===========================================================
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from clipperf.bench import cost
from clipperf.bench.gpu_figures import Sample, Seen, summarise
from clipperf.errors import MeasurementError
from clipperf.system.protocol import Fields, Tell, serve

PERIOD_S = 0.015

THROTTLE = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSyncBoost": "sync boost",
    "nvmlClocksEventReasonSwThermalSlowdown": "software thermal slowdown",
    "nvmlClocksEventReasonHwThermalSlowdown": "hardware thermal slowdown",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power brake",
}
"""NVML's bits that mean a GPU slower than it is set to be; being idle, application clocks and
display clocks are states and settings, and left out."""


# --- NVML ----------------------------------------------------------------------------------


class Gpu:
    """One GPU through NVML; None for what it, its driver or its container does not tell.

    `refused` says why, by field of `Sample`.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self.refused: dict[str, str] = {}
        self.throttle_bits = {getattr(nvml, bit): name for bit, name in THROTTLE.items()}

    def used_bytes(self) -> int | None:
        """Memory in use on the whole device."""
        info = self._ask("used_bytes", self._nvml.nvmlDeviceGetMemoryInfo)
        return None if info is None else int(info.used)

    def free_bytes(self) -> int | None:
        """Memory that is free on the device."""
        info = self._ask("free_bytes", self._nvml.nvmlDeviceGetMemoryInfo)
        return None if info is None else int(info.free)

    def process_bytes(self, pid: int) -> int | None:
        """Memory in use by one process."""
        call = self._nvml.nvmlDeviceGetComputeRunningProcesses
        running = self._ask("process_bytes", call) or []
        return next((p.usedGpuMemory for p in running if p.pid == pid), None)

    def energy_mj(self) -> int | None:
        """The board's energy counter."""
        return self._ask("energy_mj", self._nvml.nvmlDeviceGetTotalEnergyConsumption)

    def sample(self, at_s: float, pid: int | None) -> Sample:
        """One reading of everything; of memory only where there is a process to read it for."""
        nvml = self._nvml
        return Sample(
            at_s=at_s,
            process_bytes=None if pid is None else self.process_bytes(pid),
            used_bytes=None if pid is None else self.used_bytes(),
            power_mw=self._ask("power_mw", nvml.nvmlDeviceGetPowerUsage),
            sm_clock_mhz=self._ask("sm_clock_mhz", nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            temperature_c=self._ask(
                "temperature_c", nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU
            ),
            reasons=self._ask("reasons", nvml.nvmlDeviceGetCurrentClocksEventReasons),
        )

    def _ask(self, name: str, call: Callable[..., Any], *args: int) -> Any:
        try:
            return call(self._handle, *args)
        except self._nvml.NVMLError as exc:
            self.refused[name] = str(exc)
            return None


@contextlib.contextmanager
def opened(device: str) -> Iterator[Gpu]:
    """A GPU by NVML's number or by its UUID.

    Raises:
        MeasurementError: NVML is not there or does not know the GPU.
    """
    try:
        import pynvml
    except ImportError as exc:
        raise MeasurementError("no meters for the GPU: pip install nvidia-ml-py") from exc
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        raise MeasurementError(
            f"no meters for the GPU: NVML says {exc}; `nvidia-smi` must work here"
        ) from exc
    try:
        try:
            if device.isdigit():
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(device))
            else:
                handle = pynvml.nvmlDeviceGetHandleByUUID(device)
        except pynvml.NVMLError as exc:
            raise MeasurementError(
                f"no meters for GPU {device}: NVML says {exc}; `nvidia-smi -L` lists what there is"
            ) from exc
        yield Gpu(pynvml, handle)
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # a GPU that is lost is not let go of
            pynvml.nvmlShutdown()


# --- the process ---------------------------------------------------------------------------


class Sampling:
    """Reads a GPU in a thread from now until `finish`."""

    def __init__(self, gpu: Gpu, pid: int | None) -> None:
        self._gpu = gpu
        self._pid = pid
        self._over = threading.Event()
        self._elapsed_s = cost.stopwatch()
        gpu.refused.clear()
        self._energy_mj = gpu.energy_mj()
        self._samples = [self._read()]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _read(self) -> Sample:
        return self._gpu.sample(self._elapsed_s(), self._pid)

    def _run(self) -> None:
        while not self._over.wait(PERIOD_S):
            self._samples.append(self._read())

    def finish(self, baseline_bytes: int | None) -> Seen:
        """Take the last reading and sum all of them up."""
        self._over.set()
        self._thread.join()
        self._samples.append(self._read())
        before_mj, after_mj = self._energy_mj, self._gpu.energy_mj()
        counted_mj = None if before_mj is None or after_mj is None else after_mj - before_mj
        gpu = self._gpu
        return summarise(self._samples, gpu.throttle_bits, baseline_bytes, counted_mj, gpu.refused)


class Meters:
    """What the sampler's process holds between operations."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._held = contextlib.ExitStack()
        self._gpu: Gpu | None = None
        self._baseline_bytes: int | None = None
        self._sampling: Sampling | None = None

    def find(self) -> None:
        """Find the GPU and note how much of its memory is in use."""
        self._gpu = self._held.enter_context(opened(self._device))
        self._baseline_bytes = self._gpu.used_bytes()

    def begin(self, fields: Fields, tell: Tell) -> None:
        """Start reading."""
        assert self._gpu is not None
        self._sampling = Sampling(self._gpu, fields["pid"])

    def end(self, fields: Fields, tell: Tell) -> Seen:
        """What was read since "begin"."""
        if self._sampling is None:
            raise MeasurementError("the sampler was told to end before it began")
        sampling, self._sampling = self._sampling, None
        return sampling.finish(self._baseline_bytes)

    def close(self) -> None:
        """Let NVML go."""
        self._held.close()


def main() -> int:
    """Serve the parent with the meters of one GPU."""
    held = Meters(sys.argv[1])
    operations = {"begin": held.begin, "end": held.end}
    return serve(operations, greeting=held.find, at_end=held.close)


if __name__ == "__main__":
    sys.exit(main())
