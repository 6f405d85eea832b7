"""Inputs that were offered as users send them: rates, latencies, and LoadGen's verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipperf import stats, units
from clipperf.nouns.endpoint import Endpoint
from clipperf.nouns.result import Measurement, ResultFile
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
    def endpoint(self) -> Endpoint | None:
        """The server that embedded, where one did."""
        return self.measured.endpoint

    @property
    def connections(self) -> int | None:
        """How many requests to a server could be under way at once."""
        return self.cell.streams if self.endpoint is not None else None

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
    """Every cell, the newest of each machine, server and bound, in the order of the cost tables."""
    rows = newest(results, "serving", lambda row: (row.serving and row.serving.serving, _who(row)))
    return [Line(row, None if row.serving is None else row.serving.counts) for row in rows]


def _who(row: Measurement) -> tuple[str, str] | None:
    """Which model of which server embedded; what else is known of it may change."""
    return None if row.endpoint is None else (row.endpoint.url, row.endpoint.model)


def serving_table(results: Sequence[ResultFile]) -> Table | None:
    """What each cell gave under the load that was offered; None without such rows."""
    lines = lines_of(results)
    if not lines:
        return None
    columns: list[Column[Line]] = [
        *who_columns(labels_of(results)),
        *_cell_columns(lines),
        Column("Server", _url, "words", "empty", key=True),
        Column("Model there", _model_there, "words", "empty", key=True),
        Column("Batch up to", lambda line: line.cell.batch, key=True),
        Column("Connections", lambda line: line.connections, "count", "empty"),
        Column("Wait ms", _delay_s, "ms", "empty"),
        Column("Bound ms", lambda line: line.slo_s, "ms", "empty", key=True),
        Column("Inputs/s", lambda line: _of_trial(line, "rate_per_s"), "rate"),
        Column("p50 ms", lambda line: line.latency_s(50), "ms"),
        Column("p90 ms", lambda line: line.latency_s(90), "ms"),
        Column("p99 ms", lambda line: line.latency_s(99), "ms"),
        Column("Mean batch", lambda line: _of_trial(line, "mean_batch"), "number"),
        Column("Queries", lambda line: _of_trial(line, "queries")),
        Column("Too much /s", too_much_per_s, "rate", "empty"),
        Column("Least cosine", _least_cosine, "cosine", "empty"),
        Column("Verdict", verdict, "note", key=True),
    ]
    return tabulate("Serving", columns, lines, findings=_findings(lines), caveats=_legend(lines))


def _cell_columns(lines: Sequence[Line]) -> list[Column[Any]]:
    """Which cell a row is about; the threads of some are no title of others, of a server's."""
    names = ("Device", "Threads", "Scenario", "Tower", "Tokens", "Runtime")
    mixed = len({line.cell.is_remote for line in lines}) > 1
    return [
        dataclasses.replace(column, fold="never") if mixed and column.name == "Threads" else column
        for column in cell_columns(names, lines)
    ]


def _of_trial(line: Line, name: str) -> float | None:
    """A figure of the test that counts; None where there is none."""
    found: float | None = getattr(line.trial, name, None)
    return found


def _delay_s(line: Line) -> float | None:
    """How long an input waits for others, where it does; a server does not tell."""
    asked = line.serving
    if asked is None or asked.slo_s is None or line.endpoint is not None:
        return None
    return asked.max_delay_s


def _url(line: Line) -> str | None:
    """Where a server listens."""
    return None if line.endpoint is None else line.endpoint.url


def _model_there(line: Line) -> str | None:
    """What a server calls the model, and what that takes."""
    found = line.endpoint
    return None if found is None or not found.model else f"{found.model} ({found.takes})"


def _least_cosine(line: Line) -> float | None:
    """Between a server's vectors and the artifact's."""
    return None if line.endpoint is None else line.endpoint.least_cosine


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
        f"{line.cell.model_id} {line.cell.side}, {_by_whom(line)}: "
        f"{units.rate(line.trial.rate_per_s)} inputs/s with "
        f"{units.share(line.serving.percentile)} of answers within {units.seconds(line.slo_s)}."
        for line in lines
        if line.trial is not None and line.serving is not None and line.slo_s is not None
    ]


def _by_whom(line: Line) -> str:
    """The setup, and the server where one embedded."""
    endpoint = line.endpoint
    return line.cell.setup if endpoint is None else f"{line.cell.setup}, {endpoint.label}"


def serving_findings(results: Sequence[ResultFile]) -> list[str]:
    """As the table's; none without such rows."""
    return _findings(lines_of(results))


def _legend(lines: Sequence[Line]) -> list[str]:
    said = [
        "MLCommons LoadGen offered the inputs and took the times, from an input's arrival to its "
        "embedding; arrays come ready, so decoding and tokenising are not in them."
    ]
    remote = [line for line in lines if line.endpoint is not None]
    if remote:
        said.append(
            "Of a server: over HTTP from the machine that is named, with what the server does to "
            "image files and texts; batches are its own where it tells them, else as they were "
            "sent. Its precision, threads and memory are not known."
        )
    busy = [line for line in remote if line.cell.scenario == SERVER and _all_in_use(line)]
    if busy:
        names = ", ".join(dict.fromkeys(line.cell.label for line in busy))
        said.append(
            f"All connections were in use at times, so that more of them may give more: {names}. "
            f"Give --connections {2 * max(line.cell.streams for line in busy)}."
        )
    if any(line.cell.scenario == SERVER for line in lines):
        said.append(
            "Server: arrivals at random (Poisson); Inputs/s is the highest mean rate of those "
            "tried that LoadGen calls valid, and Too much /s the next one that it does not."
        )
    return said


def _all_in_use(line: Line) -> bool:
    """Whether inputs waited for a connection in the test that counts."""
    most = None if line.trial is None else line.trial.most_at_once
    return most is not None and most >= line.cell.streams


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
        "refused": _of_trial(line, "refused"),
        "server_url": _url(line),
        "server": None if line.endpoint is None else line.endpoint.server,
        "server_model": None if line.endpoint is None else line.endpoint.model,
        "server_takes": None if line.endpoint is None else line.endpoint.takes,
        "encoding": None if line.endpoint is None else line.endpoint.encoding,
        "connections": line.connections,
        "most_at_once": _of_trial(line, "most_at_once"),
        "least_cosine": _least_cosine(line),
        "verdict": verdict(line),
        "random_weights": line.random_weights,
    }
