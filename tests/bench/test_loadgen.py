"""Real tests of LoadGen's against engines whose cost is known."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from clipperf.bench import loadgen
from clipperf.errors import EngineError, MissingDependencyError
from clipperf.nouns.serving import OFFLINE, SERVER, SINGLE_STREAM, Serving

RUN_S = 0.02
SHORT = Serving(min_s=0.5, min_queries=100, percentile=0.9)


class Sleeper:
    """An engine that takes so long however many there are, and counts them."""

    def __init__(self, run_s: float = RUN_S, fail_at: int | None = None) -> None:
        self.run_s, self.fail_at = run_s, fail_at
        self.rows: list[np.ndarray] = []
        self._lock = threading.Lock()

    def run(self, array: np.ndarray) -> np.ndarray:
        with self._lock:
            self.rows.append(array[:, 0].copy())
            number = len(self.rows)
        if number == self.fail_at:
            raise EngineError("out of memory")
        time.sleep(self.run_s)
        return np.zeros((len(array), 4), np.float32)


def inputs(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32)[:, None]


def test_a_single_stream_has_the_latency_of_one_run() -> None:
    engine = Sleeper()
    trial = loadgen.offer(engine.run, inputs(1), SINGLE_STREAM, SHORT, 60.0)
    assert trial.valid and trial.reasons == () and trial.offered_per_s is None
    assert trial.queries == len(engine.rows) >= 100
    assert trial.batches == ((1, trial.queries),) and trial.mean_batch == 1
    assert RUN_S <= trial.least_s <= trial.latency_s["50"]
    assert trial.latency_s["50"] <= trial.latency_s["90"] <= trial.latency_s["99"]
    assert trial.per_s <= 1 / RUN_S


def test_offline_fills_its_batches() -> None:
    engine = Sleeper()
    trial = loadgen.offer(engine.run, inputs(8), OFFLINE, SHORT, 16 / RUN_S)
    assert dict(trial.batches)[8] >= trial.queries // 8
    assert 0 < trial.per_s < 8 / RUN_S
    used = {value for rows in engine.rows for value in rows.tolist()}
    assert used == set(range(8)), "all inputs are offered"


def test_a_test_that_ends_too_soon_says_so() -> None:
    # A rate far below what it does: LoadGen makes too few inputs.
    trial = loadgen.offer(Sleeper().run, inputs(8), OFFLINE, SHORT, 20.0)
    assert not trial.valid and "it ended too soon" in trial.reasons


def test_a_server_keeps_its_bound_below_its_rate_and_not_above() -> None:
    asked = Serving(slo_s=1.0, max_delay_s=0.0, min_s=2.0, min_queries=100, percentile=0.9)
    low = loadgen.offer(Sleeper().run, inputs(1), SERVER, asked, 20.0)
    assert low.valid and low.rate_per_s == low.offered_per_s == 20.0
    assert low.latency_s["90"] < 1.0
    # One thread and one input a run do at most 50 a second: the queue grows to many seconds.
    high = loadgen.offer(Sleeper().run, inputs(1), SERVER, asked, 200.0)
    assert not high.valid and "too many answers came late" in high.reasons
    assert high.per_s < 1 / RUN_S
    # In batches it keeps up with the same.
    batched = loadgen.offer(Sleeper().run, inputs(16), SERVER, asked, 200.0)
    assert batched.valid and batched.mean_batch is not None and batched.mean_batch > 1.5
    assert sum(size * count for size, count in batched.batches) == batched.queries


def test_settings_and_seeds_are_kept() -> None:
    asked = Serving(slo_s=0.2, min_s=0.5, min_queries=50, percentile=0.9, seed=7)
    trial = loadgen.offer(Sleeper(0.0).run, inputs(2), SERVER, asked, 200.0)
    assert trial.settings is not None
    assert trial.settings["server_target_latency_ns"] == 200_000_000
    assert trial.settings["server_target_qps"] == 200.0
    assert trial.settings["min_query_count"] == 50 and trial.settings["min_duration_ms"] == 500
    assert {trial.settings[f"{name}_rng_seed"] for name in ("qsl", "sample_index", "schedule")} == {
        7
    }
    assert trial.settings["loadgen"] and trial.settings["scenario"] == "Server"


def test_an_engine_that_fails_ends_the_test_and_is_the_error() -> None:
    start = time.monotonic()
    with pytest.raises(EngineError, match="while inputs were offered: out of memory"):
        loadgen.offer(Sleeper(fail_at=5).run, inputs(1), SINGLE_STREAM, SHORT, 60.0)
    assert time.monotonic() - start < 30
    # The next one in the same process is well.
    assert loadgen.offer(Sleeper().run, inputs(1), SINGLE_STREAM, SHORT, 60.0).valid


def test_without_loadgen_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "version_of", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"clipperf\[serve\]"):
        loadgen.offer(Sleeper().run, inputs(1), SINGLE_STREAM, SHORT, 60.0)
