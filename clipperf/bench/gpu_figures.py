"""What readings of a GPU's meters come to: peaks, means, and in words what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

FIGURES = {
    "used_bytes": "memory in use",
    "power_mw": "power",
    "sm_clock_mhz": "SM clock",
    "temperature_c": "temperature",
    "reasons": "reasons for lower clocks",
}
"""What is said of fields of `Sample` that NVML does not tell. Without a process's own memory there
is the device's, which `Seen.vram_source` says."""

NO_ENERGY = "energy: neither from the counter nor from power that was told from first to last"


@dataclass(frozen=True)
class Sample:
    """One reading at `at_s` seconds; None for what NVML does not tell here.

    `process_bytes` is the worker's own memory, `used_bytes` the whole device's.
    """

    at_s: float
    process_bytes: int | None = None
    used_bytes: int | None = None
    power_mw: int | None = None
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    reasons: int | None = None


@dataclass(frozen=True)
class Seen:
    """What the samples between "begin" and "end" come to; None for what NVML does not tell.

    `vram_source` is "nvml-process" where NVML knows the worker by its process id, else
    "nvml-device-delta": the device's use over what it was before, which other users of the GPU
    disturb (containers often hide process ids). `vram_device_bytes` is that growth in either case,
    0 or less where others gave back more than the worker took. `energy_source` is "counter" (the
    board's own, in mJ) or "power samples" (their integral). Clocks are the lowest and highest seen.
    `missing` says in words what was asked for and not told, or not all of the time, and why.
    """

    samples: int
    vram_peak_bytes: int | None = None
    vram_source: str | None = None
    vram_device_bytes: int | None = None
    energy_j: float | None = None
    energy_source: str | None = None
    power_w: float | None = None
    sm_clock_mhz: tuple[int, int] | None = None
    temperature_c: int | None = None
    throttle: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def summarise(
    samples: Sequence[Sample],
    bits: dict[int, str],
    baseline_bytes: int | None = None,
    counted_mj: int | None = None,
    refused: Mapping[str, str] | None = None,
) -> Seen:
    """Peaks, means and reasons of some samples in the order of time.

    `bits` names the bits of `Sample.reasons`, `baseline_bytes` is what the device held before the
    worker, and `counted_mj` what its energy counter gained; one that stood still does not count,
    nor one that fell, as it does when a driver is loaded anew. `refused` says by field why NVML did
    not tell it, at least once.
    """
    powers = [(s.at_s, s.power_mw / 1e3) for s in samples if s.power_mw is not None]
    clocks = [s.sm_clock_mhz for s in samples if s.sm_clock_mhz is not None]
    degrees = [s.temperature_c for s in samples if s.temperature_c is not None]
    reasons = [s.reasons for s in samples if s.reasons is not None]
    vram_peak_bytes, vram_source = _vram_peak(samples, baseline_bytes)
    energy_j, energy_source = None, None
    if counted_mj is not None and counted_mj > 0:
        energy_j, energy_source = counted_mj / 1e3, "counter"
    elif len(powers) > 1 and None not in (samples[0].power_mw, samples[-1].power_mw):
        energy_j, energy_source = _integral(powers), "power samples"
    return Seen(
        samples=len(samples),
        vram_peak_bytes=vram_peak_bytes,
        vram_source=vram_source,
        vram_device_bytes=_growth(samples, baseline_bytes),
        energy_j=energy_j,
        energy_source=energy_source,
        power_w=sum(watts for _, watts in powers) / len(powers) if powers else None,
        sm_clock_mhz=(min(clocks), max(clocks)) if clocks else None,
        temperature_c=max(degrees, default=None),
        throttle=tuple(name for bit, name in bits.items() if any(r & bit for r in reasons)),
        missing=(
            *_refused(samples, refused or {}),
            *((NO_ENERGY,) if refused and energy_j is None else ()),
            *_doubts(samples, baseline_bytes, counted_mj, vram_peak_bytes),
        ),
    )


def _refused(samples: Sequence[Sample], refused: Mapping[str, str]) -> Iterator[str]:
    """What NVML would not tell; the device's memory only where the process's own is not known."""
    own = any(s.process_bytes for s in samples)
    for name in FIGURES:
        if name not in refused or (own and name == "used_bytes"):
            continue
        count = sum(getattr(sample, name) is None for sample in samples)
        part = "" if count == len(samples) else f" in {count} of {len(samples)} readings"
        yield f"{FIGURES[name]}{part}: NVML says {refused[name]}"


def _doubts(
    samples: Sequence[Sample],
    baseline_bytes: int | None,
    counted_mj: int | None,
    vram_peak_bytes: int | None,
) -> Iterator[str]:
    """What NVML told and cannot be."""
    if counted_mj is not None and counted_mj < 0:
        yield "the energy counter: it fell meanwhile"
    used = [s.used_bytes for s in samples if s.used_bytes is not None]
    own = any(s.process_bytes for s in samples)
    if own or not used or baseline_bytes is None:
        return
    if vram_peak_bytes is None:
        yield "memory: the device's use never rose over what it was before"
    elif min(used) < baseline_bytes:
        yield "some of the memory: other programs gave theirs back meanwhile"


def _vram_peak(
    samples: Sequence[Sample], baseline_bytes: int | None
) -> tuple[int | None, str | None]:
    """The two sources are never mixed: one reading by process id replaces all by device.

    No process on a GPU uses 0 bytes of it: that is what some containers say of all, and what the
    device's use comes to where others give back more than the worker takes.
    """
    own = [s.process_bytes for s in samples if s.process_bytes]
    if own:
        return max(own), "nvml-process"
    used = [s.used_bytes for s in samples if s.used_bytes is not None]
    if used and baseline_bytes is not None and max(used) > baseline_bytes:
        return max(used) - baseline_bytes, "nvml-device-delta"
    return None, None


def _growth(samples: Sequence[Sample], baseline_bytes: int | None) -> int | None:
    used = [s.used_bytes for s in samples if s.used_bytes is not None]
    return max(used) - baseline_bytes if used and baseline_bytes is not None else None


def _integral(points: Sequence[tuple[float, float]]) -> float:
    """The area under straight lines between (time, value) points."""
    return sum((a + b) / 2 * (t - s) for (s, a), (t, b) in itertools.pairwise(points))
