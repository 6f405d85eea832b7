"""Traces of NVML, replayed to a real sampler through the real bindings; see `replay_nvml`.

Each is written by hand after NVML's documentation: what it answers where something is hidden, not
supported, begun anew or gone.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import replay_nvml
from replay_nvml import Replay

from clipperf.bench.gpu_figures import NO_ENERGY, Seen
from clipperf.bench.gpu_meters import GpuSampler
from clipperf.bench.passes import gpu_load, vram_peak

MIB = 2**20
READINGS = 8
"""More than there are times in any trace."""


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replay:
    return replay_nvml.installer(tmp_path, monkeypatch)


def seen_in(log: Path, gpu: str = "GPU-1", pid: int | None = 7) -> Seen:
    """What a sampler sees of a whole trace."""
    meter = GpuSampler(gpu)
    try:
        meter.begin(pid)
        end = time.monotonic() + 30
        while log.stat().st_size < READINGS:
            assert time.monotonic() < end, "waited 30 s in vain"
            time.sleep(0.01)
        seen = meter.end()
    finally:
        meter.close()
    assert seen is not None and seen.samples > READINGS
    return seen


def test_a_container_that_hides_processes_leaves_the_devices_memory(replay: Replay) -> None:
    seen = seen_in(replay("container"))
    assert (seen.vram_peak_bytes, seen.vram_source) == (1036 * MIB, "nvml-device-delta")
    assert (seen.energy_j, seen.energy_source) == (pytest.approx(2.7), "counter")
    assert (seen.power_w, seen.sm_clock_mhz, seen.temperature_c) == (60, (1410, 1410), 44)
    assert seen.throttle == seen.missing == ()


def test_of_a_slice_the_memory_is_known_and_the_boards_figures_are_named(replay: Replay) -> None:
    seen = seen_in(replay("mig_slice"), "MIG-1")
    assert (seen.vram_peak_bytes, seen.vram_source) == (768 * MIB, "nvml-process")
    assert seen.energy_j is seen.power_w is seen.sm_clock_mhz is seen.temperature_c is None
    assert seen.energy_source is None
    assert seen.missing == (
        "power: NVML says Not Supported",
        "SM clock: NVML says Invalid Argument",
        "temperature: NVML says Not Supported",
        "reasons for lower clocks: NVML says Not Supported",
        NO_ENERGY,
    )


def test_reasons_that_slow_a_gpu_are_told_from_settings(replay: Replay) -> None:
    seen = seen_in(replay("throttled"), pid=None)
    assert seen.throttle == ("power cap", "software thermal slowdown", "hardware thermal slowdown")
    assert (seen.sm_clock_mhz, seen.temperature_c) == ((210, 2520), 88)
    # The counter passes 2^32 on its way: 550 J.
    assert (seen.energy_j, seen.energy_source) == (550.0, "counter")
    assert seen.vram_peak_bytes is seen.vram_source is None, "nobody asked"
    assert seen.missing == ()


def test_a_counter_that_begins_anew_is_left_for_the_samples(replay: Replay) -> None:
    seen = seen_in(replay("driver_reloaded"))
    # 100 to 300 W in a second, half a second at 300 W, from there to 200 W in another half.
    assert (seen.energy_j, seen.energy_source) == (200 + 150 + 125, "power samples")
    assert (seen.vram_peak_bytes, seen.vram_source) == (256 * MIB, "nvml-device-delta")
    assert seen.missing == (
        "the energy counter: it fell meanwhile",
        "some of the memory: other programs gave theirs back meanwhile",
    )


def test_memory_that_others_give_back_is_unknown_and_not_zero(replay: Replay) -> None:
    seen = seen_in(replay("memory_falls"))
    assert seen.vram_peak_bytes is seen.vram_source is None
    assert (seen.energy_j, seen.energy_source) == (150.0, "power samples")
    assert seen.throttle == ()
    assert seen.missing == (
        "reasons for lower clocks: NVML says Function Not Found",  # an old driver
        "memory: the device's use never rose over what it was before",
    )
    # The row has what the runtime knows, and says so, or nothing.
    assert vram_peak(seen, 900) == {"vram_peak_bytes": 900, "vram_source": "allocator"}
    assert vram_peak(seen, None) == {"vram_peak_bytes": None, "vram_source": None}


def test_a_gpu_that_is_lost_leaves_no_half_of_its_energy(replay: Replay) -> None:
    seen = seen_in(replay("gpu_lost"))
    assert seen.energy_j is seen.energy_source is None, "two readings are not the whole"
    assert (seen.power_w, seen.sm_clock_mhz, seen.temperature_c) == (250, (1980, 1980), 70)
    assert (seen.vram_peak_bytes, seen.vram_source) == (524 * MIB, "nvml-device-delta")
    lost = f"in {seen.samples - 2} of {seen.samples} readings: NVML says GPU is lost"
    names = ("memory in use", "power", "SM clock", "temperature", "reasons for lower clocks")
    assert seen.missing == (*(f"{name} {lost}" for name in names), NO_ENERGY)
    load = gpu_load({"seconds": 1.0, "runs": 10}, seen)
    assert load is not None and load.missing == seen.missing, "it reaches the result file"


@pytest.mark.parametrize("trace", sorted(p.stem for p in replay_nvml.TRACES.glob("*.jsonl")))
def test_traces_are_in_order_and_name_what_nvml_has(trace: str) -> None:
    nvml: Any = pytest.importorskip("pynvml")
    text = (replay_nvml.TRACES / f"{trace}.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines() if not line.startswith("//")]
    assert [line["at_s"] for line in lines] == sorted(line["at_s"] for line in lines)
    known = Path(nvml.__file__).read_text()
    for line in lines:
        assert f'"{line["call"]}"' in known
        assert hasattr(nvml, f"NVML_ERROR_{line['error']}") if "error" in line else "answer" in line
    for line in lines:
        if line["call"] == "nvmlDeviceGetMemoryInfo" and "answer" in line:
            memory = line["answer"]
            assert memory["free"] + memory["used"] == memory["total"]
