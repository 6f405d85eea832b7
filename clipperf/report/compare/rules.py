"""Rules that a change must keep: a small language, and what became of each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clipperf.errors import UsageError
from clipperf.nouns.result import Score
from clipperf.report.compare.figures import ACCURACY, METRICS, Change, Shift
from clipperf.report.compare.match import Pair, score_name
from clipperf.report.records import Row
from clipperf.report.table import Interval, Value
from clipperf.text import quoted

NAMES = (*(metric.name for metric in METRICS), ACCURACY)
FORM = re.compile(r"\s*([A-Za-z0-9_]+)\s*([<>])\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*(pp|%|x)?\s*")

MOST_ROWS = 10
"""Rows that a sentence names."""

Outcome = Literal["failed", "ok", "unresolved", "lost", "not measured"]
"""Of a row under a rule. Unresolved: its value is beyond the bound, its interval not wholly; lost:
A has the figure, and B failed to measure it."""


@dataclass(frozen=True)
class Rule:
    """What is a regression: a ratio of B over A, or a difference of accuracy, beyond a bound.

    Of accuracy the bound is a share of one.
    """

    text: str
    metric: str
    below: bool
    bound: float

    def beyond(self, value: float) -> bool:
        """Whether a value is a regression."""
        return value < self.bound if self.below else value > self.bound

    def outcome(self, value: float, interval: Interval | None, by_point: bool) -> Outcome:
        """Of a figure: its whole interval must be beyond the bound, or its value where it has none.

        With `by_point` the value alone decides.
        """
        if not self.beyond(value):
            return "ok"
        if by_point or interval is None or all(map(self.beyond, interval)):
            return "failed"
        return "unresolved"


def parse_rule(text: str) -> Rule:
    """A rule as it is typed: "throughput<0.95", "ram>1.1", "accuracy<-0.5pp".

    Raises:
        UsageError: it is none; the message says what a rule looks like, and names the metrics.
    """
    found = FORM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--fail-if {quoted(text)}: give METRIC<BOUND or METRIC>BOUND, such as "
            f'"throughput<0.95", "ram>1.1" or "accuracy<-0.5pp"; metrics: {", ".join(NAMES)}'
        )
    name, sign, number, unit = found[1].lower(), found[2], float(found[3]), found[4]
    if name not in NAMES:
        raise UsageError(
            f"--fail-if {quoted(text)}: no metric {quoted(found[1])}; choose from: "
            f"{', '.join(NAMES)}"
        )
    whole = "".join(text.split())
    if name == ACCURACY:
        if unit != "pp" or not -100 <= number <= 100:
            raise UsageError(
                f"--fail-if {quoted(text)}: differences of accuracy are in percentage points, "
                f"such as accuracy<-0.5pp"
            )
        return Rule(whole, name, sign == "<", number / 100)
    if unit in ("pp", "%") or not (math.isfinite(number) and number > 0):
        raise UsageError(
            f"--fail-if {quoted(text)}: the bound of {name} is a ratio of B over A above 0, such "
            f"as {name}<0.95 or {name}>1.1"
        )
    return Rule(whole, name, sign == "<", number)


# --- what became of it ---------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """One row under a rule: what it is called, what it shows, what came of it."""

    name: str
    shown: str
    outcome: Outcome


@dataclass(frozen=True)
class Judged:
    """A rule and the rows that it was held against.

    It fails where a row does, and where it could be held against none: a gate that looks at
    nothing would always be open.
    """

    rule: Rule
    rows: tuple[Found, ...]

    def of(self, *outcomes: Outcome) -> list[Found]:
        """The rows of which one of these came."""
        return [row for row in self.rows if row.outcome in outcomes]

    @property
    def failed(self) -> bool:
        """Whether the rule found a regression, or nothing to look at."""
        return bool(self.of("failed", "lost")) or not self.of("ok", "unresolved")

    @property
    def words(self) -> str:
        """What came of it, without its name."""
        known = len(self.of("failed", "ok", "unresolved", "lost"))
        if not known:
            return "FAILED: no row has this figure in both A and B"
        rows = f"{known} {'row' if known == 1 else 'rows'}"
        said = []
        if failed := self.of("failed"):
            said.append(f"FAILED in {len(failed)} of {rows}: {_named(failed)}")
        if lost := self.of("lost"):
            said.append(f"FAILED, measured in A and no longer in B: {_named(lost)}")
        if unsure := self.of("unresolved"):
            said.append(
                f"not shown in {len(unsure)} of {rows}, whose value is beyond the bound but not "
                f"the whole interval (measure longer, or decide with --by-point): {_named(unsure)}"
            )
        return "; ".join(said) or f"ok in {rows}"


def _named(rows: Sequence[Found]) -> str:
    told = ", ".join(f"{row.name} {row.shown}".strip() for row in rows[:MOST_ROWS])
    more = len(rows) - MOST_ROWS
    return f"{told} and {more} more" if more > 0 else told


def judge_rows(
    rule: Rule, rows: Sequence[tuple[Pair[Row], dict[str, Change]]], by_point: bool
) -> Judged:
    """A rule of costs against every row and its changes by metric."""
    found = []
    for pair, changes in rows:
        seen = changes[rule.metric]
        shown = Value(seen.ratio, "ratio", seen.interval).text if seen.ratio is not None else ""
        outcome: Outcome = "not measured"
        if seen.ratio is not None:
            outcome = rule.outcome(seen.ratio, seen.interval, by_point)
        elif seen.a is not None and seen.b is None and pair.b.failed:
            outcome = "lost"
        found.append(Found(pair.name, shown, outcome))
    return Judged(rule, tuple(found))


def judge_scores(
    rule: Rule,
    scores: Sequence[tuple[Pair[Score], Shift]],
    by_point: bool,
    lost: Sequence[Score] = (),
) -> Judged:
    """A rule of accuracy against every figure, and what is `lost`; random weights have none."""
    found = [
        Found(score_name(score), "", "lost")
        for score in lost
        if math.isfinite(score.value) and not score.random_weights
    ]
    for pair, seen in scores:
        shown = ""
        outcome: Outcome = "not measured"
        if seen.difference is not None and not pair.random_weights:
            shown = f"{Value(seen.difference, 'points', seen.interval).text} points"
            outcome = rule.outcome(seen.difference, seen.interval, by_point)
        elif math.isfinite(pair.a.value) and not math.isfinite(pair.b.value):
            outcome = "lost"
        found.append(Found(score_name(pair.b, pair.setup), shown, outcome))
    return Judged(rule, tuple(found))
