"""What is compared of two rows, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from clipperf import stats
from clipperf.nouns.result import Measurement, Score
from clipperf.report.compare.blocks import Calls, ratio_interval
from clipperf.report.compare.match import Pair, in_turns
from clipperf.report.pairs import is_baseline
from clipperf.report.records import Row, finite, speed_ratio
from clipperf.report.table import Interval

How = Literal["paired", "unpaired", "once"]
"""Blocks of one run in turns; blocks of two runs; one reading in each."""


@dataclass(frozen=True)
class Metric:
    """One figure of a row: its name in rules, and that in tables.

    `q` is the quantile of the calls that it follows from, None where it is read once.
    """

    name: str
    heading: str
    of: Callable[[Row], float | None]
    q: float | None = None


SPEEDUP = Metric("speedup", "vs PyTorch", lambda r: r.ratio)
THROUGHPUT = Metric("throughput", "Throughput", lambda r: r.items_per_s, 0.50)
METRICS = (
    THROUGHPUT,
    SPEEDUP,
    Metric("p50", "p50", lambda r: r.p50_s, 0.50),
    Metric("p90", "p90", lambda r: r.p90_s, 0.90),
    Metric("p99", "p99", lambda r: r.p99_s, 0.99),
    Metric("ram", "RAM", lambda r: r.rss_peak_bytes),
    Metric("vram", "VRAM", lambda r: r.vram_peak_bytes),
    Metric("disk", "Disk", lambda r: r.disk_bytes),
    Metric("load", "Load", lambda r: r.load_s),
)

ACCURACY = "accuracy"
"""The name in rules of all differences of accuracy."""


@dataclass(frozen=True)
class Change:
    """One figure of A and B, in SI units, None where not measured; `ratio` is B's over A's."""

    a: float | None
    b: float | None
    ratio: float | None = None
    interval: Interval | None = None
    how: How = "once"


def change(metric: Metric, pair: Pair[Row]) -> Change:
    """A figure of both, and its ratio.

    - Throughput and p50 of rows that took turns: the median of the ratios of their blocks.
    - Other figures of calls: the ratio of their quantiles, with an interval from drawing blocks.
    - What is read once in each has no interval.
    - The speed-up: the two paired ratios over PyTorch, whose intervals are independent; where both
      took turns with the same calls of PyTorch these fall out, and blocks are paired.

    Readings of VRAM of different sources have no ratio, nor have speed-ups over different setups.
    """
    a, b = finite(metric.of(pair.a)), finite(metric.of(pair.b))
    if a is None or b is None or min(a, b) <= 0:
        return Change(a, b)
    if metric is SPEEDUP:
        return _speedup(pair, a, b)
    if metric.name == "vram" and pair.a.vram_source != pair.b.vram_source:
        return Change(a, b)
    if metric.q is None:
        return Change(a, b, b / a)
    faster = metric is THROUGHPUT
    if metric.q == 0.50 and pair.one_file and (known := speed_ratio(pair.b, pair.a)) is not None:
        ratio, ends = known
        if not faster:
            ratio, ends = 1 / ratio, _inverse(ends)
        return Change(a, b, ratio, ends, "paired")
    paired = in_turns(pair)
    interval = ratio_interval(calls_of(pair.a), calls_of(pair.b), metric.q, paired)
    if faster:
        interval = _inverse(interval)
    return Change(a, b, b / a, interval, "paired" if paired else "unpaired")


def calls_of(row: Row) -> Calls:
    """The calls that a row's times are of."""
    time: Measurement | None = row.time
    return Calls((), ()) if time is None else Calls(time.run_s, time.blocks)


def _inverse(interval: Interval | None) -> Interval | None:
    return None if interval is None else (1 / interval[1], 1 / interval[0])


def _speedup(pair: Pair[Row], a: float, b: float) -> Change:
    first, second = pair.a.ratio_baseline, pair.b.ratio_baseline
    if first is None or second is None or first.setup != second.setup:
        return Change(a, b)
    if first == second and in_turns(pair) and (known := speed_ratio(pair.b, pair.a)) is not None:
        return Change(a, b, *known, "paired")
    ends_a, ends_b = pair.a.ratio_interval, pair.b.ratio_interval
    interval = None
    if ends_a is not None and ends_b is not None:
        ours = math.log(b), (math.log(ends_b[0]), math.log(ends_b[1]))
        theirs = math.log(a), (math.log(ends_a[0]), math.log(ends_a[1]))
        low, high = stats.recovered_interval(math.log(b / a), ours, theirs)
        interval = math.exp(low), math.exp(high)
    return Change(a, b, b / a, interval, "unpaired")


# --- accuracy ------------------------------------------------------------------------------

Basis = Literal["paired", "via PyTorch", "unpaired"]
"""The same samples; what each differs from PyTorch by on the same samples; each one's interval."""


@dataclass(frozen=True)
class Shift:
    """B's accuracy minus A's, a share of one, with what its interval rests on."""

    difference: float | None
    interval: Interval | None
    basis: Basis


def shift(pair: Pair[Score]) -> Shift:
    """How far B's accuracy lies from A's.

    - Where both files hold which samples are hits: in pairs (`stats.paired_share_interval`).
    - Where PyTorch's figure is the same in both: the difference of the two paired differences from
      it. Among hits, two runtimes can differ from PyTorch on a sample in one direction only, so
      their errors are independent at worst, and the interval is no narrower than it should be.
    - Else of two independent figures, which is far too wide for the same samples.
    """
    a, b = pair.a, pair.b
    if not (math.isfinite(a.value) and math.isfinite(b.value)):
        return Shift(None, None, "unpaired")
    difference = b.value - a.value
    ours, theirs = hits_of(b), hits_of(a)
    if ours is not None and theirs is not None and a.n == b.n:
        gained, lost = (ours & ~theirs).bit_count(), (theirs & ~ours).bit_count()
        return Shift(difference, stats.paired_share_interval(gained, lost, b.n), "paired")
    first, second = from_pytorch(a), from_pytorch(b)
    compared = (a.difference, b.difference) != (None, None) and a.n == b.n
    if compared and first is not None and second is not None and first[0] == second[0]:
        ends = stats.recovered_interval(difference, second[1:], first[1:])
        return Shift(difference, ends, "via PyTorch")
    if not all(map(math.isfinite, (*a.ci95, *b.ci95))):
        return Shift(difference, None, "unpaired")
    ends = stats.recovered_interval(difference, (b.value, b.ci95), (a.value, a.ci95))
    return Shift(difference, ends, "unpaired")


def from_pytorch(score: Score) -> tuple[float, float, Interval] | None:
    """PyTorch's figure on the same samples, and the score's difference from it with its interval.

    None where PyTorch was not evaluated beside it.
    """
    if score.baseline_value is None:
        return (score.value, 0.0, (0.0, 0.0)) if is_baseline(score.cell) else None
    if score.difference is None or score.diff_ci95 is None:
        return None
    if not all(map(math.isfinite, (score.difference, *score.diff_ci95))):
        return None
    return score.baseline_value, score.difference, score.diff_ci95


def hits_of(score: Score) -> int | None:
    """Which samples are hits, a bit each; None where the file does not hold it."""
    if not score.hits or len(score.hits) != 2 * math.ceil(score.n / 8):
        return None
    try:
        return int(score.hits, 16)
    except ValueError:
        return None
