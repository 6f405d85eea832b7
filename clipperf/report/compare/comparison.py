"""From two sets of results to one comparison: what is told, the tables, plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import ResultFile, Score
from clipperf.report.compare.figures import ACCURACY, METRICS, Change, Shift, change, shift
from clipperf.report.compare.machines import warnings
from clipperf.report.compare.match import (
    Between,
    Matched,
    Pair,
    cell_name,
    matched_rows,
    matched_scores,
    rows_of,
    score_name,
)
from clipperf.report.compare.rules import Judged, Rule, judge_rows, judge_scores
from clipperf.report.records import Row, merge_scores
from clipperf.report.table import Interval
from clipperf.serialize import to_json


@dataclass(frozen=True)
class Comparison:
    """B beside A: rows that both have with what changed, those of one alone, and the rules."""

    sources: tuple[tuple[str, str], tuple[str, str]]
    rows: tuple[tuple[Pair[Row], dict[str, Change]], ...]
    scores: tuple[tuple[Pair[Score], Shift], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    judged: tuple[Judged, ...]
    warnings: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether a rule failed."""
        return any(each.failed for each in self.judged)

    def broken(self, name: str) -> list[str]:
        """The rules that a row of this name fails."""
        return [
            each.rule.text
            for each in self.judged
            if any(found.name == name for found in each.of("failed", "lost"))
        ]


def compare(
    a: Sequence[ResultFile],
    b: Sequence[ResultFile],
    rules: Sequence[Rule] = (),
    *,
    between: Between | None = None,
    by_point: bool = False,
) -> Comparison:
    """Match the rows of A and B, take ratios and differences, and hold the rules against them.

    Raises:
        UsageError: A and B have no row in common.
    """
    rows, scores = matched_rows(a, b, between), matched_scores(a, b, between)
    if not rows.pairs and not scores.pairs:
        raise UsageError(_nothing_shared(a, b, between))
    changed = tuple((p, {m.name: change(m, p) for m in METRICS}) for p in rows.pairs)
    shifted = tuple((pair, shift(pair)) for pair in scores.pairs)
    return Comparison(
        sources=(_source(a), _source(b)),
        rows=changed,
        scores=shifted,
        only_a=_names(rows.only_a, scores.only_a),
        only_b=_names(rows.only_b, scores.only_b),
        judged=tuple(
            judge_scores(rule, shifted, by_point, _lost(b, scores, between))
            if rule.metric == ACCURACY
            else judge_rows(rule, changed, by_point)
            for rule in rules
        ),
        warnings=(*warnings(a, b, rows, scores), *_left_out(a, b, scores)),
    )


def _lost(b: Sequence[ResultFile], scores: Matched[Score], between: Between | None) -> list[Score]:
    """The figures of A on data that B evaluated, too, where B has none: those cells failed."""
    if between is not None:
        return []
    data = {score.dataset_sha256 for result in b for score in result.scores}
    return [score for score in scores.only_a if score.dataset_sha256 in data]


def _source(results: Sequence[ResultFile]) -> tuple[str, str]:
    """The files of one side, and when they were made."""
    days = sorted({result.created_utc for result in results})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return ", ".join(result.path for result in results), when


def _names(rows: Sequence[Row], scores: Sequence[Score]) -> tuple[str, ...]:
    told = [cell_name(row.cell) for row in rows]
    told += [score_name(score) for score in scores]
    return tuple(told)


def _left_out(
    a: Sequence[ResultFile], b: Sequence[ResultFile], scores: Matched[Score]
) -> list[str]:
    """What the files hold and is not compared."""
    results, found = [*a, *b], []
    changed = {s.dataset for s in scores.only_a} & {
        s.dataset
        for s in scores.only_b
        if s.dataset_sha256 not in {other.dataset_sha256 for other in scores.only_a}
    }
    if changed:
        found.append(
            f"Another version (sha256) of {', '.join(sorted(changed))}: its figures are not "
            "compared."
        )
    if any(result.crossed for result in results):
        found.append("Index compatibility is not compared: clipperf eval --index-compat says it.")
    if any(score.aim != "high" for result in results for score in result.scores):
        found.append("Probes of bias are not compared: no figure of theirs is better or worse.")
    return found


def _nothing_shared(
    a: Sequence[ResultFile], b: Sequence[ResultFile], between: Between | None
) -> str:
    """Why there is nothing to compare, and what each side has."""
    held = []
    for name, results in (("A", a), ("B", b)):
        cells = dict.fromkeys([cell_name(row.cell) for row in rows_of(results)])
        cells |= dict.fromkeys(_names((), merge_scores(results)))
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        setups = dict.fromkeys(cell.setup for cell in _cells(results))
        ran = f" (of {', '.join(setups)})" if setups else ""
        held.append(f"{name} has {'; '.join(list(cells)[:3]) or 'nothing that is'}{more}{ran}")
    asked = "" if between is None else " of the setups that --between names"
    other = "" if between is not None else ", or name the setups to compare with --between"
    return (
        f"A and B have no row in common{asked}: measure the same cells for both{other}. "
        f"{'. '.join(held)}"
    )


def _cells(results: Sequence[ResultFile]) -> list[Cell]:
    """What one side measured and evaluated."""
    rows, scores = rows_of(results), merge_scores(results)
    return [*(row.cell for row in rows), *(score.cell for score in scores)]


# --- plain values --------------------------------------------------------------------------


def plain(found: Comparison) -> dict[str, Any]:
    """All of it as plain values, figures in SI units, accuracies as shares of one."""
    return {
        "a": dict(zip(("path", "created_utc"), found.sources[0], strict=True)),
        "b": dict(zip(("path", "created_utc"), found.sources[1], strict=True)),
        "failed": found.failed,
        "rules": [
            {"rule": j.rule.text, "failed": j.failed, "words": j.words, "rows": to_json(j.rows)}
            for j in found.judged
        ],
        "warnings": list(found.warnings),
        "rows": [
            {
                **_who(pair),
                "name": pair.name,
                "stable_a": pair.a.stable,
                "stable_b": pair.b.stable,
                "problems_a": list(pair.a.problems),
                "problems_b": list(pair.b.problems),
                "figures": {name: _flat(each) for name, each in changes.items()},
            }
            for pair, changes in found.rows
        ],
        "accuracy": [
            {
                **_who(pair),
                "dataset": pair.b.dataset,
                "metric": pair.b.metric,
                "n": pair.b.n,
                "a": pair.a.value,
                "b": pair.b.value,
                **_flat(each),
            }
            for pair, each in found.scores
        ],
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
    }


def _who(pair: Pair[Any]) -> dict[str, Any]:
    cells = {"cell_a": to_json(pair.a.cell), "cell_b": to_json(pair.b.cell)}
    return {**cells, "random_weights": pair.random_weights}


def _flat(record: Change | Shift) -> dict[str, Any]:
    """A record with its interval as two values, `low` and `high`."""
    values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    ends: Interval | None = values.pop("interval")
    low, high = ends if ends is not None else (None, None)
    return {**values, "low": low, "high": high}
