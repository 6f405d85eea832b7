import gc
import time
from dataclasses import replace

import numpy as np
import pytest

from clipperf.bench import cost

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
