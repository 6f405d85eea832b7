"""How long an engine runs for what waits, and what its harness costs beside that."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.serving import SERVER
from clipperf.nouns.variant import Side
from clipperf.report.pairs import alike, usable_samples
from clipperf.report.records import Row
from clipperf.report.serving import Line
from clipperf.report.sizing.queueing import Service, expected, service_of

HALVINGS = 16
"""Of the range in which a harness's cost is looked for."""


def but_batch(row: Row | Line) -> tuple:
    """What rows that differ in nothing but their batch have in common."""
    return (row.env_id, alike(row.cell, "batch"))


def closed_key(line: Line) -> tuple:
    """As `but_batch` of the same configuration's closed loops."""
    return (line.env_id, alike(dataclasses.replace(line.cell, scenario=CLOSED_LOOP), "batch"))


def service_at(
    row: Row, rows: Sequence[Row], harness_s: float = 0.0
) -> tuple[Service, tuple[str, ...]]:
    """How long the engine of a row runs for up to its batch, and what of that was not measured.

    Smaller batches are those of the same configuration. Each of several streams and instances
    is an engine with a queue of its own, which together do no better than behind one queue.
    """
    times = {
        r.cell.batch: r.mean_s
        for r in rows
        if r.mean_s and but_batch(r) == but_batch(row) and r.cell.batch <= row.cell.batch
    }
    guessed = []
    if min(times) > 1:
        guessed.append(f"fewer than {min(times)} inputs are taken to run as long as {min(times)}")
    if any(b - a > 1 for a, b in zip(sorted(times), sorted(times)[1:], strict=False)):
        sizes = ", ".join(map(str, sorted(times)))
        guessed.append(f"run times between batches of {sizes} are interpolated")
    # Time that shrinks as inputs are added is noise: no run of more takes less here.
    pairs, longest = [], 0.0
    for batch, mean_s in sorted(times.items()):
        longest = max(longest, mean_s)
        pairs.append((batch, longest))
    service = service_of(pairs, usable_samples(row.time))
    return (with_harness(service, harness_s) if harness_s else service), tuple(guessed)


def with_harness(service: Service, each_s: float) -> Service:
    """The service where each input takes so many seconds more."""
    longer = tuple(s + each_s * n for n, s in enumerate(service.seconds, start=1))
    return dataclasses.replace(service, seconds=longer)


@dataclass(frozen=True)
class Harness:
    """What an input costs beside the engine's run: the middle of what `count` server scenarios
    of the tower `side` show."""

    each_s: float
    count: int
    side: Side


Harnesses = Mapping[tuple[str, Side], Harness]
"""By machine and tower."""


def harnesses(lines: Sequence[Line], rows: Sequence[Row]) -> Harnesses:
    """By machine and tower, from server scenarios of which closed loops were measured, too."""
    found: dict[tuple[str, Side], list[float]] = {}
    for line in lines:
        same = [r for r in rows if but_batch(r) == closed_key(line)]
        alone = next((r for r in same if r.cell.batch == line.cell.batch and r.mean_s), None)
        cost_s = None if alone is None else _harness_s(line, service_at(alone, rows)[0])
        if cost_s is not None:
            found.setdefault((line.env_id, line.cell.side), []).append(cost_s)
    return {
        where: Harness(statistics.median(each), len(each), where[1])
        for where, each in found.items()
    }


def _harness_s(line: Line, service: Service) -> float | None:
    """The seconds an input with which the estimate is right about a server scenario.

    The estimate then has its percentile at the bound at the rate that was held; 0 where it is
    there without, None where the scenario does not say how much is held.
    """
    asked, trial = line.serving, line.trial
    searched = asked is not None and asked.slo_s is not None and asked.rate_per_s is None
    if line.cell.scenario != SERVER or line.cell.is_remote or trial is None or not searched:
        return None
    assert asked is not None and asked.slo_s is not None
    rate = trial.rate_per_s / line.cell.engines
    low, high = 0.0, 1 / rate - service.seconds[-1] / service.most
    if high <= 0:
        return 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        seen = expected(with_harness(service, middle), rate, asked.percentile)
        keeps = seen is not None and seen.latency_s <= asked.slo_s
        low, high = (middle, high) if keeps else (low, middle)
    return low


def harness_of(row: Row, found: Harnesses) -> Harness | None:
    """What is known of the harness for a row; the other tower's where nothing is of its own."""
    own = found.get((row.env_id, row.cell.side))
    other = (each for (env_id, _), each in found.items() if env_id == row.env_id)
    return own or next(other, None)
