"""MLCommons LoadGen in a worker: it offers inputs and keeps the clock; an engine answers.

https://github.com/mlcommons/inference/tree/master/loadgen. Nothing here times anything: latencies,
rates and the verdict are LoadGen's own, read from the log that it writes.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.bench.batcher import Batcher
from clipperf.errors import (
    EngineError,
    MeasurementError,
    MissingDependencyError,
    RefusedError,
)
from clipperf.nouns.serving import OFFLINE, SERVER, SINGLE_STREAM, Serving, Trial
from clipperf.system import extras, temporaries
from clipperf.system.env import version_of
from clipperf.system.protocol import Tell

MODULE, DISTRIBUTION = "mlperf_loadgen", "mlcommons-loadgen"
SCENARIOS = {SINGLE_STREAM: "SingleStream", OFFLINE: "Offline", SERVER: "Server"}
LATENCIES = {
    f"{float(name):g}": f"result_{name}_percentile_latency_ns"
    for name in ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")
}
LEAST = "result_min_latency_ns"
LOG_MARK = ":::MLLOG "
TELL_S = 5.0
"""How often it is told that answers still come."""

REASONS = {
    "result_perf_constraints_met": "too many answers came late",
    "result_min_duration_met": "it ended too soon",
    "result_min_queries_met": "too few queries",
    "early_stopping_met": "too few queries for that percentile with 99 % confidence",
}
"""What LoadGen holds against a run, in words."""


def check() -> None:
    """Make sure that LoadGen is here.

    Raises:
        MissingDependencyError: it is not.
    """
    if version_of(DISTRIBUTION) is None:
        raise MissingDependencyError(
            f"this scenario needs {DISTRIBUTION}, which is not installed: {extras.bring(MODULE)}"
        )


class Answering:
    """What LoadGen asks: it batches queries, runs them, and tells LoadGen when each is answered.

    After a failure every query counts as answered at once, so that LoadGen comes to its end; the
    failure is told, and is in `failure`. Inputs that a server had too much to do for are `refused`.
    """

    def __init__(
        self,
        loadgen: Any,
        run: Callable[[np.ndarray], np.ndarray],
        inputs: np.ndarray,
        batcher: Callable[[Callable[[Sequence[Any]], None]], Batcher[Any]],
        tell: Tell,
    ) -> None:
        self.failure: Exception | None = None
        self.refused, self.refusal = 0, ""
        self._loadgen, self._engine_run, self._inputs = loadgen, run, inputs
        self._lock = threading.Lock()
        self._tell, self._told_s = tell, time.monotonic()
        self.batcher = batcher(self._answer)

    @property
    def refusals(self) -> tuple[str, ...]:
        """In words, what was refused, if anything was."""
        return (f"{self.refused} were refused: {self.refusal}",) if self.refused else ()

    def issue(self, queries: Sequence[Any]) -> None:
        """LoadGen's call: these came now."""
        self.batcher.add([(query.id, query.index) for query in queries])

    def _answer(self, batch: Sequence[tuple[int, int]]) -> None:
        try:
            if self.failure is None:
                self._engine_run(self._inputs[[index for _, index in batch]])
                self._say({"answered": len(batch)})
        except RefusedError as exc:
            with self._lock:
                self.refused += len(batch)
                self.refusal = self.refusal or str(exc)
        except Exception as exc:  # noqa: BLE001 - whatever it is, LoadGen waits for an answer
            with self._lock:
                self.failure = self.failure or exc
            self._say({"failed": str(exc)}, now=True)
        answers = [self._loadgen.QuerySampleResponse(number, 0, 0) for number, _ in batch]
        self._loadgen.QuerySamplesComplete(answers)

    def _say(self, what: dict[str, Any], now: bool = False) -> None:
        """Tell something, at once or if nothing was told for a while."""
        with self._lock:
            if now or time.monotonic() - self._told_s > TELL_S:
                self._told_s = time.monotonic()
                self._tell(what)


def offer(
    run: Callable[[np.ndarray], np.ndarray],
    inputs: np.ndarray,
    scenario: str,
    serving: Serving,
    rate_per_s: float,
    streams: int = 1,
    tell: Tell = lambda told: None,
    batch: int | None = None,
) -> Trial:
    """One test: inputs offered as `scenario` says, answered by `run` in up to `streams` threads.

    `inputs` [n, ...] are what is offered, in LoadGen's order, and `run` gets up to `batch` at
    once, by default as many as there are. `rate_per_s` is the rate that is offered ("server"), or
    that is expected. `tell` has {"answered": a number} now and then, and {"failed": why} as soon as
    a run fails. A test of which a server refuses inputs is not valid.

    Raises:
        EngineError: a run failed.
        MissingDependencyError: LoadGen is not installed.
        MeasurementError: LoadGen left no verdict.
    """
    check()
    import mlperf_loadgen as loadgen

    settings = loadgen.TestSettings()
    wanted = _settings(scenario, serving, rate_per_s)
    for name, value in wanted.items():
        setattr(settings, name, value)
    settings.scenario = getattr(loadgen.TestScenario, SCENARIOS[scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    delay_s = serving.max_delay_s if scenario == SERVER else 0.0
    size = batch or len(inputs)
    answering = Answering(
        loadgen, run, inputs, lambda own: Batcher(own, size, delay_s, streams), tell
    )
    with temporaries.scratch("loadgen") as folder:
        _start(loadgen, settings, answering, len(inputs), str(folder))
        if answering.failure is not None:
            raise EngineError(f"while inputs were offered: {answering.failure}")
        log = _read(folder / "mlperf_log_detail.txt")
    used = {**wanted, "scenario": SCENARIOS[scenario], "loadgen": version_of(DISTRIBUTION) or ""}
    return _trial(log, scenario, rate_per_s, answering, used)


def _settings(scenario: str, serving: Serving, rate_per_s: float) -> dict[str, Any]:
    """LoadGen's settings by its names, where they are not its own."""
    found: dict[str, Any] = {
        "min_duration_ms": math.ceil(serving.min_s * 1e3),
        "qsl_rng_seed": serving.seed,
        "sample_index_rng_seed": serving.seed,
        "schedule_rng_seed": serving.seed,
    }
    if scenario == OFFLINE:
        # All inputs are one query there.
        return {**found, "min_query_count": 1, "offline_expected_qps": rate_per_s}
    found["min_query_count"] = serving.min_queries
    if scenario == SINGLE_STREAM:
        return {
            **found,
            "single_stream_expected_latency_ns": max(1, round(1e9 / rate_per_s)),
            "single_stream_target_latency_percentile": serving.percentile,
        }
    assert serving.slo_s is not None
    return {
        **found,
        "server_target_qps": rate_per_s,
        "server_target_latency_ns": round(serving.slo_s * 1e9),
        "server_target_latency_percentile": serving.percentile,
    }


def _start(loadgen: Any, settings: Any, answering: Answering, samples: int, folder: str) -> None:
    """Run the test to its end, and end the threads that answered."""
    logging = loadgen.LogSettings()
    logging.log_output.outdir = folder
    logging.log_output.copy_summary_to_stdout = False
    logging.enable_trace = False
    asked = loadgen.ConstructSUT(answering.issue, lambda: None)
    library = loadgen.ConstructQSL(samples, samples, lambda _: None, lambda _: None)
    try:
        loadgen.StartTestWithLogSettings(asked, library, settings, logging)
    finally:
        answering.batcher.close()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(asked)


def _read(path: Path) -> dict[str, Any]:
    """The last value of every key of LoadGen's log.

    Raises:
        MeasurementError: it is not there, damaged, or has no verdict and latencies.
    """
    found: dict[str, Any] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(LOG_MARK):
                entry = json.loads(line.removeprefix(LOG_MARK))
                found[entry["key"]] = entry["value"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise MeasurementError(f"LoadGen's log {path.name} cannot be read: {exc}") from exc
    missing = [key for key in ("result_validity", LEAST, *LATENCIES.values()) if key not in found]
    if missing:
        raise MeasurementError(f"LoadGen's log {path.name} has no {missing[0]}: is the disk full?")
    return found


def _trial(
    log: dict[str, Any],
    scenario: str,
    rate_per_s: float,
    answering: Answering,
    used: dict[str, Any],
) -> Trial:
    batcher = answering.batcher
    rates = {
        SINGLE_STREAM: "result_qps_with_loadgen_overhead",
        OFFLINE: "result_samples_per_second",
        SERVER: "result_completed_samples_per_sec",
    }
    queries = sum(size * count for size, count in batcher.counts.items())
    return Trial(
        queries=queries,
        per_s=float(log[rates[scenario]]),
        latency_s={name: log[key] / 1e9 for name, key in LATENCIES.items()},
        least_s=log[LEAST] / 1e9,
        valid=log["result_validity"] == "VALID" and not answering.refused,
        reasons=(
            *(words for key, words in REASONS.items() if log.get(key) is False),
            *answering.refusals,
        ),
        offered_per_s=rate_per_s if scenario == SERVER else None,
        batches=tuple(sorted(batcher.counts.items())),
        settings=used,
        most_at_once=batcher.most,
        refused=answering.refused,
    )
