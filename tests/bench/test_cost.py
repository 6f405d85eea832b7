import gc
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from clipperf.bench import cost
from clipperf.nouns.cell import Phases

INPUTS = np.zeros((1, 4), dtype=np.float32)


class Counter:
    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = 0
        self.seconds = seconds

    def __call__(self, array: np.ndarray) -> np.ndarray:
        self.calls += 1
        time.sleep(self.seconds)
        return array


def test_warmup_calls_are_not_timed() -> None:
    run = Counter()
    samples = cost.time_block(run, INPUTS, warmup=3, calls=5, min_s=0.0)
    assert len(samples) == 5
    assert run.calls == 8
    assert all(s > 0 for s in samples)


def test_a_block_goes_on_for_its_seconds() -> None:
    samples = cost.time_block(Counter(0.005), INPUTS, warmup=0, calls=1, min_s=0.03)
    assert sum(samples) >= 0.03
    assert sum(samples[:-1]) < 0.03


def test_a_slow_engine_ends_its_block_early_but_has_one_sample() -> None:
    samples = cost.time_block(Counter(0.02), INPUTS, warmup=0, calls=50, min_s=9.0, max_s=0.01)
    assert len(samples) == 1


def test_a_fast_engine_does_not_flood() -> None:
    samples = cost.time_block(Counter(), INPUTS, warmup=0, calls=1, min_s=60.0)
    assert len(samples) == cost.MAX_BLOCK_CALLS


def test_the_sleep_comes_before_the_block_and_is_not_timed() -> None:
    start = time.perf_counter()
    samples = cost.time_block(Counter(), INPUTS, warmup=1, calls=2, min_s=0.0, sleep_s=0.05)
    assert time.perf_counter() - start >= 0.05
    assert sum(samples) < 0.05


def test_the_garbage_collector_rests_and_comes_back() -> None:
    seen = []

    def run(array: np.ndarray) -> np.ndarray:
        seen.append(gc.isenabled())
        return array

    cost.time_block(run, INPUTS, warmup=0, calls=1, min_s=0.0)
    assert seen == [False]
    assert gc.isenabled()

    def fail(array: np.ndarray) -> np.ndarray:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cost.time_block(fail, INPUTS, warmup=0, calls=1, min_s=0.0)
    assert gc.isenabled()


def test_timed_returns_value_and_seconds() -> None:
    value, seconds = cost.timed(lambda: time.sleep(0.02) or "done")
    assert value == "done"
    assert 0.02 <= seconds < 0.5


def test_stopping_rule_needs_all_of_its_parts() -> None:
    rule = cost.Settings(min_runs=10, min_blocks=4, min_s=1.0, target_rel_width=0.05)
    samples = [0.125] * 10
    assert cost.is_stable(samples, 4, rule)
    assert not cost.is_stable(samples, 3, rule)
    assert not cost.is_stable(samples[:9], 4, rule)
    assert not cost.is_stable([0.0625] * 10, 4, rule)
    # The interval of 10 samples runs from the 1st to the 10th: 0.125 wide on a median of 0.1875.
    assert not cost.is_stable([0.125] * 5 + [0.25] * 5, 4, rule)
    assert cost.is_stable([0.125] * 5 + [0.25] * 5, 4, replace(rule, target_rel_width=0.67))
    assert not cost.is_stable([], 0, replace(rule, min_runs=0, min_blocks=0, min_s=0.0))


def test_deadline() -> None:
    assert cost.deadline(-1.0)()
    assert not cost.deadline(60.0)()


def test_presets_differ_in_care() -> None:
    assert cost.PRESETS["quick"].max_s < cost.PRESETS["default"].max_s
    # Paired ratios have an interval from 6 pairs on.
    assert all(preset.min_blocks >= 6 for preset in cost.PRESETS.values())


# --- by a clock that only runs on while something runs -------------------------------------


class Clock:
    """Stands for the module `time`: goes on by `seconds[i]` in the i-th call, the last ones on."""

    def __init__(self, *seconds: float) -> None:
        self.now = 100.0
        self.seconds = list(seconds)
        self.calls = 0
        self.slept: list[tuple[float, int]] = []

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter

    def sleep(self, seconds: float) -> None:
        self.slept.append((seconds, self.calls))
        self.now += 1000

    def run(self, array: np.ndarray) -> np.ndarray:
        assert self.calls < 1000, "this goes on for ever"
        self.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1
        return array


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock(0.5)
    monkeypatch.setattr(cost, "time", fake)
    return fake


def test_a_block_sleeps_warms_up_and_times_each_call(clock: Clock) -> None:
    clock.seconds = [8.0, 8.0, 0.5, 0.25]
    assert cost.time_block(clock.run, INPUTS, 2, 3, 0.0, sleep_s=0.3) == [0.5, 0.25, 0.25]
    assert clock.slept == [(0.3, 0)]
    assert cost.time_block(clock.run, INPUTS, 0, 1, 0.0) == [0.25]
    assert len(clock.slept) == 1


def test_a_block_ends_when_calls_and_seconds_are_reached(clock: Clock) -> None:
    assert len(cost.time_block(clock.run, INPUTS, 0, 1, 1.0)) == 2
    assert len(cost.time_block(clock.run, INPUTS, 0, 4, 1.0)) == 4
    assert len(cost.time_block(clock.run, INPUTS, 0, 4, 9.0, max_s=1.0)) == 2
    assert len(cost.time_block(clock.run, INPUTS, 0, 0, 0.0)) == 1
    # The seconds are those of all calls: 1 + 0.25 + 0.25 reach 1.5.
    clock.calls, clock.seconds = 0, [1.0, 0.25]
    assert cost.time_block(clock.run, INPUTS, 0, 1, 1.5) == [1.0, 0.25, 0.25]


def test_a_block_has_no_more_than_its_most_calls(clock: Clock) -> None:
    assert cost.MAX_BLOCK_CALLS == 200
    assert len(cost.time_block(clock.run, INPUTS, 0, 300, 0.0)) == 200
    assert len(cost.time_block(clock.run, INPUTS, 0, 199, 0.0)) == 199


def test_streams_each_do_all_of_it_at_once() -> None:
    together = threading.Barrier(3, timeout=30)
    threads = []

    def run(array: np.ndarray) -> np.ndarray:
        together.wait()
        threads.append(threading.get_ident())
        return array

    samples = cost.time_block(run, INPUTS, warmup=2, calls=2, min_s=0.0, streams=3)
    assert len(samples) == 6
    assert sorted(threads.count(thread) for thread in set(threads)) == [4, 4, 4]


def test_a_stream_that_fails_ends_all_and_says_why() -> None:
    first = threading.Lock()

    def run(array: np.ndarray) -> np.ndarray:
        if first.acquire(blocking=False):
            raise RuntimeError("out of memory")
        return array

    with pytest.raises(RuntimeError, match="out of memory"):
        cost.time_block(run, INPUTS, warmup=1, calls=1, min_s=0.0, streams=3)
    assert gc.isenabled()


def test_a_garbage_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        cost.time_block(Counter(), INPUTS, warmup=0, calls=1, min_s=0.0)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_running_without_pause(clock: Clock) -> None:
    assert cost.run_for(clock.run, INPUTS, 1.0) == (2, 1.0)
    assert cost.run_for(clock.run, INPUTS, 1.25) == (3, 1.5)
    assert cost.run_for(clock.run, INPUTS, 0.0) == (1, 0.5)


def test_runs_of_all_streams_are_counted() -> None:
    """Two runs at once: each waits for the other, which one thread alone would do for ever."""
    together, made = threading.Barrier(2, timeout=60), []

    def run(inputs: np.ndarray) -> np.ndarray:
        together.wait()
        made.append(inputs)
        return inputs

    runs, seconds = cost.run_for(run, INPUTS, 0.0, streams=2)
    assert (runs, len(made)) == (2, 2) and seconds > 0


def phased(clock: Clock):
    def run(array: np.ndarray) -> tuple[np.ndarray, Phases]:
        clock.run(array)
        return array, Phases(clock.calls + 0.1, clock.calls + 0.2, clock.calls + 0.3)

    return run


def test_phases_of_each_run_after_the_warm_up(clock: Clock) -> None:
    assert cost.time_phases(phased(clock), INPUTS, 2, 3, 9.0) == {
        "h2d": [3.1, 4.1, 5.1],
        "compute": [3.2, 4.2, 5.2],
        "d2h": [3.3, 4.3, 5.3],
        "host": [0.5, 0.5, 0.5],
    }


@pytest.mark.parametrize(
    ("runs", "max_s", "taken"), [(3, 9.0, 3), (9, 1.0, 2), (9, 1.25, 3), (0, 9.0, 1), (9, 0.0, 1)]
)
def test_phases_end_by_runs_or_seconds(clock: Clock, runs: int, max_s: float, taken: int) -> None:
    found = cost.time_phases(phased(clock), INPUTS, 0, runs, max_s)
    assert {len(samples) for samples in found.values()} == {taken}


def test_clocks(clock: Clock) -> None:
    value, seconds = cost.timed(lambda: clock.run(INPUTS))
    assert value is INPUTS and seconds == 0.5
    over, elapsed = cost.deadline(1.0), cost.stopwatch()
    for seconds, ended in ((0.5, False), (1.0, True), (1.5, True)):
        clock.run(INPUTS)
        assert (elapsed(), over()) == (seconds, ended)


def test_what_is_measured_by_default() -> None:
    assert cost.DEFAULT == cost.PRESETS["default"] == cost.Settings()
    assert asdict(cost.DEFAULT) == {
        "min_runs": 30,
        "min_blocks": 8,
        "min_s": 3.0,
        "max_s": 60.0,
        "patience_s": 60.0,
        "target_rel_width": 0.05,
        "warmup": 2,
        "block_calls": 5,
        "block_s": 0.3,
        "block_max_s": 10.0,
        "sleep_s": 0.3,
        "timeout_s": 900.0,
        "memory_runs": 3,
        "gpu_load_s": 2.0,
        "phase_runs": 20,
        "limits": {"seconds": None, "ram_bytes": None, "vram_bytes": None},
    }
    assert asdict(cost.PRESETS["quick"]) == {
        "min_runs": 12,
        "min_blocks": 6,
        "min_s": 0.5,
        "max_s": 10.0,
        "patience_s": 3.0,
        "target_rel_width": 0.10,
        "warmup": 1,
        "block_calls": 3,
        "block_s": 0.1,
        "block_max_s": 3.0,
        "sleep_s": 0.1,
        "timeout_s": 300.0,
        "memory_runs": 2,
        "gpu_load_s": 1.0,
        "phase_runs": 10,
        "limits": {"seconds": None, "ram_bytes": None, "vram_bytes": None},
    }
    assert list(cost.PRESETS) == ["quick", "default"]


def test_an_interval_that_is_just_narrow_enough() -> None:
    # The interval of six runs from the first to the last: 0.5 wide around a median of 1.
    samples = [0.75, 1.0, 1.0, 1.0, 1.0, 1.25]
    rule = cost.Settings(min_runs=6, min_blocks=1, min_s=6.0, target_rel_width=0.5)
    assert cost.is_stable(samples, 1, rule)
    assert not cost.is_stable(samples, 1, replace(rule, target_rel_width=0.49))
    assert not cost.is_stable(samples, 1, replace(rule, min_s=6.01))
