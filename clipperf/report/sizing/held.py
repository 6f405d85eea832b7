"""How much one replica of a tower holds, by what was measured of it.

What inputs that came at random were seen to hold comes first. Where nobody has measured that
within the SLO, a queueing estimate from closed-loop times stands in, and is called one. Without
an SLO nothing bounds the queue, and a closed loop's throughput is what counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from clipperf import stats, units
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.serving import SERVER
from clipperf.report.pairs import alike, usable_samples
from clipperf.report.records import Row
from clipperf.report.serving import Line, too_much_per_s, verdict
from clipperf.report.sizing.queueing import Service, highest_rate
from clipperf.report.sizing.service import (
    Harness,
    Harnesses,
    but_batch,
    closed_key,
    harness_of,
    service_at,
)
from clipperf.report.sizing.types import Option, Targets, percentile
from clipperf.report.table import Interval

Held = tuple[Option, tuple[str, ...]]
"""An option without replicas, and what went wrong while it was measured."""


def longest_texts(rows: Sequence[Row]) -> list[Row]:
    """Of each configuration the row with the longest texts: shorter ones would flatter it."""
    longest: dict[tuple, Row] = {}
    for row in rows:
        c = row.cell
        key = (row.env_id, alike(c, "tokens"))
        if key not in longest or (c.tokens or 0) > (longest[key].cell.tokens or 0):
            longest[key] = row
    return list(longest.values())


def tail_latency(row: Row) -> tuple[float | None, str | None]:
    """The highest latency quantile that enough calls back, else the slowest call, and its name."""
    for name, value in (("p99", row.p99_s), ("p95", row.p95_s), ("p90", row.p90_s)):
        if value is not None:
            return value, name
    return (row.max_s, "max") if row.max_s is not None else (None, None)


def fitting(line: Line, targets: Targets) -> bool:
    """Whether a server scenario shows what is asked for: as strict a bound, as many answers.

    One that was offered a single rate (`--rate`) does not: nobody looked for the highest.
    """
    asked, slo_s = line.serving, targets.slo_s
    return (
        line.cell.scenario == SERVER
        and line.trial is not None
        and asked is not None
        and asked.rate_per_s is None
        and slo_s is not None
        and asked.slo_s is not None
        and asked.slo_s <= slo_s * (1 + 1e-9)
        and asked.percentile >= targets.percentile - 1e-9
    )


def held_by(
    rows: Sequence[Row], lines: Sequence[Line], targets: Targets, costs: Harnesses
) -> list[Held]:
    """What each configuration holds, in the order of the rows, then of the server scenarios.

    One with fitting server scenarios is told by those alone, each batch by its highest rate;
    without an SLO, or where none fits, by its closed loops where there are any. Of texts the
    longest count, in whatever scenario and batch: rows of shorter ones are left out. `costs` are
    those of the harnesses, which estimates add.
    """
    longest: dict[tuple, int] = {}
    every: list[Row | Line] = [*rows, *(x for x in lines if x.cell.scenario == SERVER)]
    for each in every:
        key = _but_length(each)
        longest[key] = max(longest.get(key, 0), each.cell.tokens or 0)
    rows = [row for row in rows if (row.cell.tokens or 0) == longest[_but_length(row)]]
    measured = {but_batch(row) for row in rows}
    served: dict[tuple, dict[int, Line]] = {}
    others: dict[tuple, Line] = {}
    for line in lines:
        if line.cell.scenario != SERVER or (line.cell.tokens or 0) != longest[_but_length(line)]:
            continue
        searched = line.trial is not None and _only_rate(line) is None
        unbound = targets.slo_s is None and searched and closed_key(line) not in measured
        if not (fitting(line, targets) or unbound):
            others.setdefault(closed_key(line), line)
        else:
            batches = served.setdefault(closed_key(line), {})
            best = batches.get(line.cell.batch)
            if best is None or _rate(line) > _rate(best):
                batches[line.cell.batch] = line
    found = [
        _closed(row, rows, targets, harness_of(row, costs))
        for row in rows
        if but_batch(row) not in served
    ]
    found += [_served(line, rows) for batches in served.values() for line in batches.values()]
    left = [x for key, x in others.items() if key not in served and key not in measured]
    return found + [(_served(line, rows)[0], (_unfit(line),)) for line in left]


def _unfit(line: Line) -> str:
    """Why a server scenario says nothing here."""
    if line.trial is None or line.serving is None or line.slo_s is None:
        return f"server scenario: {verdict(line)}"
    only = _only_rate(line)
    if only is not None:
        return (
            f"server scenario: {units.rate(only)} inputs/s were held and no more was tried "
            f"(--rate): run `clipperf profile --scenario server` without it"
        )
    share = units.share(line.serving.percentile)
    return (
        f"SLO: held with {share} of answers within {units.seconds(line.slo_s)}, which is less than "
        f"is asked for: run `clipperf profile --scenario server` with this bound"
    )


def _only_rate(line: Line) -> float | None:
    """The rate that alone was offered, where the highest was not looked for."""
    return None if line.serving is None else line.serving.rate_per_s


def _rate(line: Line) -> float:
    return 0.0 if line.trial is None else line.trial.rate_per_s


def _but_length(row: Row | Line) -> tuple:
    """What rows of one configuration have in common, however long their texts are."""
    return (row.env_id, alike(row.cell, "tokens", "batch", "scenario"))


def _closed(
    row: Row, rows: Sequence[Row], targets: Targets, harness: Harness | None = None
) -> Held:
    """From times of single calls, with what is wrong with them."""
    latency, quantile = _latency_at(row, targets)
    # Capacity counts every call, the slow ones too; the median would promise more than it keeps.
    rate = row.cell.at_once / row.mean_s if row.mean_s else None
    interval = _rate_interval(row)
    option = Option(
        cell=row.cell,
        env_id=row.env_id,
        random_weights=row.random_weights,
        unstable=row.stable is False,
        rate_per_s=rate,
        latency_s=latency,
        latency_quantile=quantile,
        rss_peak_bytes=row.rss_peak_bytes,
        vram_peak_bytes=row.vram_peak_bytes,
        load=None,
        replicas=None,
        per_machine=None,
        basis="closed loop" if row.cell.scenario == CLOSED_LOOP else "as driven",
        rate_interval=interval,
        held_per_s=rate,
        held_interval=interval,
        disk_bytes=row.disk_bytes,
    )
    if targets.slo_s is None or rate is None or row.cell.scenario != CLOSED_LOOP:
        return option, row.problems
    samples = usable_samples(row.time)
    # Of few calls the slowest says little about a percentile: they are in the queue as they are.
    near = float(np.quantile(samples, targets.percentile)) if samples else latency
    if min(latency or 0.0, near or 0.0) > targets.slo_s:
        return option, row.problems
    found = _estimated(option, row, rows, targets.slo_s, targets.percentile, harness)
    return found, row.problems


def _latency_at(row: Row, targets: Targets) -> tuple[float | None, str | None]:
    """The latency at the SLO's percentile where enough calls back it, else as `tail_latency`."""
    if targets.slo_s is not None:
        value = stats.quantile(usable_samples(row.time), targets.percentile)
        if value is not None:
            return value, percentile(targets)
    return tail_latency(row)


def _rate_interval(row: Row) -> Interval | None:
    """95 % interval of the mean rate, by Student's t over the blocks' means."""
    samples = usable_samples(row.time)
    if row.time is None or len(row.time.blocks) != len(samples):
        return None
    blocks: dict[int, list[float]] = {}
    for sample, block in zip(samples, row.time.blocks, strict=True):
        blocks.setdefault(block, []).append(sample)
    means = [math.fsum(each) / len(each) for each in blocks.values()]
    if len(means) < 6:
        return None
    mean = math.fsum(means) / len(means)
    variance = math.fsum((m - mean) ** 2 for m in means) / (len(means) - 1)
    reach = stats.t_quantile(len(means) - 1) * math.sqrt(variance / len(means))
    middle, items = math.fsum(samples) / len(samples), row.cell.at_once
    # Where the interval of the time reaches 0 nothing bounds the rate from above.
    return items / (middle + reach), items / (middle - reach) if reach < middle else math.inf


def _estimated(
    option: Option,
    row: Row,
    rows: Sequence[Row],
    slo_s: float,
    quantile: float,
    harness: Harness | None,
) -> Option:
    each_s = 0.0 if harness is None else harness.each_s
    service, guessed = service_at(row, rows, each_s)
    if harness is not None and each_s:
        plural = "scenario" if harness.count == 1 else "scenarios"
        shows = f"{plural} of {harness.side}s {'shows' if harness.count == 1 else 'show'}"
        guessed += (
            f"each {row.cell.side} costs {units.seconds(each_s)} beside the engine, as "
            f"{harness.count} server {shows}",
        )
    engines = row.cell.engines
    held = highest_rate(service, slo_s, quantile)
    interval: Interval | None = None
    if held is not None and option.rate_interval is not None and option.rate_per_s:
        ratios = [rate / option.rate_per_s for rate in option.rate_interval]
        ends = [
            math.inf
            if ratio == math.inf
            else highest_rate(_quicker(service, ratio), slo_s, quantile, near=held * ratio) or 0.0
            for ratio in ratios
        ]
        interval = (engines * min(ends[0], held), engines * max(ends[1], held))
    return dataclasses.replace(
        option,
        basis="queueing estimate",
        held_per_s=None if held is None else engines * held,
        held_interval=interval,
        harness_s=each_s,
        extrapolated=guessed,
    )


def _quicker(service: Service, factor: float) -> Service:
    return dataclasses.replace(service, seconds=tuple(s / factor for s in service.seconds))


def _served(line: Line, rows: Sequence[Row]) -> Held:
    """From a server scenario; memory and disk are those of the same tower in a closed loop."""
    cell, trial, asked = line.cell, line.trial, line.serving
    percent = f"{100 * asked.percentile:g}" if asked is not None else "99"
    same = [r for r in rows if but_batch(r) == closed_key(line)]
    weighed = [r for r in same if r.rss_peak_bytes is not None or r.vram_peak_bytes is not None]
    nearest = min(weighed, key=lambda r: abs(r.cell.batch - cell.batch), default=None)
    told: tuple[str, ...] = ()
    if nearest is not None and nearest.cell.batch != cell.batch:
        told = (f"memory is that of batch {nearest.cell.batch}",)
    alone = next((r for r in same if r.cell.batch == cell.batch and r.mean_s), None)
    above = too_much_per_s(line)
    held = None if trial is None else trial.rate_per_s
    option = Option(
        cell=cell,
        env_id=line.env_id,
        random_weights=line.random_weights,
        unstable=False,
        rate_per_s=cell.at_once / alone.mean_s if alone and alone.mean_s else None,
        latency_s=None if trial is None else trial.latency_s.get(percent),
        latency_quantile=f"p{percent}",
        rss_peak_bytes=nearest.rss_peak_bytes if nearest else None,
        vram_peak_bytes=nearest.vram_peak_bytes if nearest else None,
        load=None,
        replicas=None,
        per_machine=None,
        basis="server scenario",
        rate_interval=_rate_interval(alone) if alone else None,
        held_per_s=held,
        held_interval=None if above is None or held is None else (held, above),
        disk_bytes=line.measured.disk_bytes or (same[0].disk_bytes if same else None),
        extrapolated=told,
    )
    return option, ()
