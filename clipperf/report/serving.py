"""Inputs that were offered as users send them: rates, latencies, and LoadGen's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipperf import stats, units
from clipperf.nouns.result import ResultFile
from clipperf.nouns.serving import SERVER, Serving, Trial
from clipperf.report.columns import Column, cell_columns, tabulate, who_columns
from clipperf.report.measured import Measured, newest
from clipperf.report.records import labels_of
from clipperf.report.table import Table
from clipperf.serialize import to_json
from clipperf.text import one_line

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Line(Measured):
    """One cell; `trial` is the test that counts, None where there is none."""

    trial: Trial | None

    @property
    def serving(self) -> Serving | None:
        """How inputs were offered."""
        return None if self.measured.serving is None else self.measured.serving.serving

    @property
    def slo_s(self) -> float | None:
        """The bound that answers had to keep to."""
        return None if self.serving is None else self.serving.slo_s

    def latency_s(self, percentile: int) -> float | None:
        """A percentile of the seconds to an answer, where enough queries back it."""
        needed = stats.MIN_SAMPLES_FOR_QUANTILE[percentile / 100]
        if self.trial is None or self.trial.queries < needed:
            return None
        return self.trial.latency_s.get(str(percentile))


def lines_of(results: Sequence[ResultFile]) -> list[Line]:
    """Every cell, the newest of each machine and bound, in the order of the cost tables."""
    rows = newest(results, "serving", lambda row: row.serving and row.serving.serving)
    return [Line(row, None if row.serving is None else row.serving.counts) for row in rows]


def serving_table(results: Sequence[ResultFile]) -> Table | None:
    """What each cell gave under the load that was offered; None without such rows."""
    lines = lines_of(results)
    if not lines:
        return None
    columns: list[Column[Line]] = [
        *who_columns(labels_of(results)),
        *cell_columns(("Device", "Threads", "Scenario", "Tower", "Tokens", "Runtime"), lines),
        Column("Batch up to", lambda line: line.cell.batch, key=True),
        Column("Wait ms", _delay_s, "ms", "empty"),
        Column("Bound ms", lambda line: line.slo_s, "ms", "empty", key=True),
        Column("Inputs/s", lambda line: _of_trial(line, "rate_per_s"), "rate"),
        Column("p50 ms", lambda line: line.latency_s(50), "ms"),
        Column("p90 ms", lambda line: line.latency_s(90), "ms"),
        Column("p99 ms", lambda line: line.latency_s(99), "ms"),
        Column("Mean batch", lambda line: _of_trial(line, "mean_batch"), "number"),
        Column("Queries", lambda line: _of_trial(line, "queries")),
        Column("Too much /s", too_much_per_s, "rate", "empty"),
        Column("Verdict", verdict, "note", key=True),
    ]
    return tabulate("Serving", columns, lines, findings=_findings(lines), caveats=_legend(lines))


def _of_trial(line: Line, name: str) -> float | None:
    """A figure of the test that counts; None where there is none."""
    found: float | None = getattr(line.trial, name, None)
    return found


def _delay_s(line: Line) -> float | None:
    """How long an input waits for others, where it does."""
    asked = line.serving
    return None if asked is None or asked.slo_s is None else asked.max_delay_s


def too_much_per_s(line: Line) -> float | None:
    """The lowest rate above the one that counts that LoadGen did not call valid."""
    run, best = line.measured.serving, line.trial
    if run is None or line.slo_s is None:
        return None
    held = 0.0 if best is None else best.offered_per_s or 0.0
    failed = [t.offered_per_s for t in run.trials if not t.valid and t.offered_per_s]
    return min((rate for rate in failed if rate > held), default=None)


def verdict(line: Line) -> str:
    """LoadGen's, and why; or why there is none."""
    run = line.measured.serving
    if line.measured.status != "ok" or run is None:
        return one_line(line.measured.error or "no test was made")
    if line.trial is not None:
        return "VALID"
    last = run.trials[-1] if run.trials else None
    if last is None:
        return "no test was made"
    why = ", ".join(last.reasons) or "LoadGen gives no reason"
    if last.offered_per_s is None:
        return f"INVALID: {why}"
    return f"INVALID even at {units.rate(last.offered_per_s)} inputs/s: {why}"


def _findings(lines: Sequence[Line]) -> list[str]:
    """In words, what each cell of the server scenario holds."""
    return [
        f"{line.cell.model_id} {line.cell.side}, {line.cell.setup}: "
        f"{units.rate(line.trial.rate_per_s)} inputs/s with "
        f"{units.share(line.serving.percentile)} of answers within {units.seconds(line.slo_s)}."
        for line in lines
        if line.trial is not None and line.serving is not None and line.slo_s is not None
    ]


def serving_findings(results: Sequence[ResultFile]) -> list[str]:
    """As the table's; none without such rows."""
    return _findings(lines_of(results))


def _legend(lines: Sequence[Line]) -> list[str]:
    said = [
        "MLCommons LoadGen offered the inputs and took the times, from an input's arrival to its "
        "embedding; arrays come ready, so decoding and tokenising are not in them."
    ]
    if any(line.cell.scenario == SERVER for line in lines):
        said.append(
            "Server: arrivals at random (Poisson); Inputs/s is the highest mean rate of those "
            "tried that LoadGen calls valid, and Too much /s the next one that it does not."
        )
    return said


def serving_record(line: Line) -> dict[str, Any]:
    """A cell in SI units, flat."""
    asked = line.serving
    return {
        "record": "serving",
        **to_json(line.cell),
        "env_id": line.env_id,
        "status": line.measured.status,
        "slo_s": line.slo_s,
        "max_delay_s": _delay_s(line),
        "percentile": None if asked is None else asked.percentile,
        "inputs_per_s": _of_trial(line, "rate_per_s"),
        "finished_per_s": _of_trial(line, "per_s"),
        **{f"p{name}_s": line.latency_s(name) for name in PERCENTILES},
        "mean_batch": _of_trial(line, "mean_batch"),
        "queries": _of_trial(line, "queries"),
        "tests": 0 if line.measured.serving is None else len(line.measured.serving.trials),
        "too_much_per_s": too_much_per_s(line),
        "verdict": verdict(line),
        "random_weights": line.random_weights,
    }
