"""Probes of bias as tables, with what they can and cannot show; see `evals.tasks.bias`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipperf.evals.tasks.bias import CLASS_FIGURES
from clipperf.evals.verdicts import Verdict, in_words, verdict_of
from clipperf.nouns.result import ResultFile, Score
from clipperf.report.accuracy import LOADS, SEVERITY_OF, accuracy_table
from clipperf.report.columns import KEY, Column, cell_columns, tabulate, who_columns
from clipperf.report.records import labels_of, merge_scores
from clipperf.report.table import Table, Value

LIMITS = (
    "Shares say how a model answers these words on these photos: other words, photos or cut-offs "
    "give others. Groups are what annotators saw in a face, not what people say of themselves.",
    "No figure here is better for being high or low, and none sets a limit. Equal shares do not "
    "make a use harmless, unequal ones do not say where they come from; a use is judged with the "
    "classes, photos and people that it has.",
    "Brackets are 95 % intervals, for each group by itself: among many groups some differ by "
    "chance. A runtime is equivalent where its share lies within the margin of PyTorch's on both "
    "sides, and different where the paired interval does not hold zero.",
)
WHERE = ("Device", *LOADS)
ORDER = (Verdict.DIFFERENT, Verdict.TOO_FEW, Verdict.EQUIVALENT)


@dataclass(frozen=True)
class Line:
    """One runtime's shares of classes for a group, by the figures of `CLASS_FIGURES`."""

    any: Score
    by: dict[str, Score]


def score_tables(results: Sequence[ResultFile]) -> list[Table]:
    """All tables of scores: of accuracy, where there are any or nothing else, and of bias."""
    bias = bias_tables(results)
    accurate = any(score.aim == "high" for result in results for score in result.scores)
    return [*([accuracy_table(results)] if accurate or not bias else []), *bias]


def bias_tables(results: Sequence[ResultFile]) -> list[Table]:
    """Shares in classes by group, then labels by group; none where none were probed."""
    if not any(score.aim == "same" for result in results for score in result.scores):
        return []
    scores = [score for score in merge_scores(results) if score.aim == "same"]
    labels = labels_of(results)
    lines = _lines(scores)
    known = {score.metric for line in lines for score in line.by.values()}
    rest = [score for score in scores if score.metric not in known]
    tables = []
    if lines:
        columns: list[Column[Line]] = [
            *who_columns(labels, lambda line: line.any),
            *cell_columns(WHERE, lines, lambda line: line.any, optional=WHERE),
            Column("Dataset", lambda line: line.any.dataset, "words", "constant", **KEY),
            Column("Group", lambda line: line.any.group, "words", **KEY),
            *cell_columns(["Runtime"], lines, lambda line: line.any),
            Column("n", lambda line: line.any.n),
            *(_share(figure) for figure in CLASS_FIGURES.values()),
            Column("Verdict", _worst, "verdict", "empty"),
        ]
        tables.append(tabulate("Shares of people by class", columns, lines, (), LIMITS))
    if rest:
        own: list[Column[Score]] = [
            *who_columns(labels),
            *cell_columns(WHERE, rest, optional=WHERE),
            Column("Dataset", lambda s: s.dataset, "words", "constant", **KEY),
            Column("Label", lambda s: s.metric, "words", **KEY),
            *cell_columns(["Runtime"], rest),
            Column("n", lambda s: s.n),
            Column("Share", lambda s: Value(s.value, "share", s.ci95)),
            Column("Baseline", lambda s: s.baseline_value, "share", "empty"),
            Column("Tells the group", lambda s: s.detail, "words", "empty"),
            Column("Verdict", _verdict, "verdict", "empty"),
        ]
        tables.append(tabulate("Labels by group", own, rest, (), LIMITS))
    return tables


def _lines(scores: Sequence[Score]) -> list[Line]:
    """The scores of one cell, dataset and group together, where they are of classes."""
    found: dict[tuple[object, ...], dict[str, Score]] = {}
    for score in scores:
        for figure in CLASS_FIGURES.values():
            if score.metric == f"{figure}, {score.group}":
                key = (score.group, score.env_id, score.cell, score.dataset, score.dataset_sha256)
                found.setdefault(key, {})[figure] = score
    return [Line(next(iter(by.values())), by) for by in found.values()]


def _share(figure: str) -> Column[Line]:
    def value(line: Line) -> Value:
        score = line.by.get(figure)
        return Value(None, "share") if score is None else Value(score.value, "share", score.ci95)

    return Column(figure.capitalize(), value)


def _worst(line: Line) -> Value:
    """The first of `ORDER` that is among its figures' verdicts."""
    scores = sorted(line.by.values(), key=lambda s: _place(verdict_of(s)))
    return _verdict(scores[0])


def _place(verdict: Verdict) -> int:
    return ORDER.index(verdict) if verdict in ORDER else len(ORDER)


def _verdict(score: Score) -> Value:
    verdict = verdict_of(score)
    return Value(in_words(score), "verdict", severity=SEVERITY_OF.get(verdict, "plain"))
