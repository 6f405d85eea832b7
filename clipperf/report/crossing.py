"""Queries of one engine in an index of another: the tables, and what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from clipperf.evals.crossing import in_words
from clipperf.evals.verdicts import COMPARED, verdict_of
from clipperf.evals.verdicts import in_words as verdict_in_words
from clipperf.nouns.result import CrossScore, ResultFile, Score
from clipperf.report.accuracy import SEVERITY_OF
from clipperf.report.columns import CELL_COLUMNS, KEY, Column, cell_columns, tabulate, who_columns
from clipperf.report.pairs import alike
from clipperf.report.records import in_order, labels_of
from clipperf.report.table import Table, Value


@dataclasses.dataclass(frozen=True)
class Line:
    """A figure against the engine of the queries, and against that of the index, alone."""

    queries: CrossScore
    index: CrossScore

    @property
    def both(self) -> tuple[CrossScore, CrossScore]:
        """Its two rows."""
        return self.queries, self.index

    @property
    def any(self) -> Score:
        """What both have in common."""
        return self.queries.score


def merge_crossed(results: Sequence[ResultFile]) -> list[Line]:
    """The newest of each pair of engines, dataset (by content) and metric in each environment."""
    newest: dict[tuple, dict[str, CrossScore]] = {}
    for result in in_order(results) if any(r.crossed for r in results) else ():
        for row in result.crossed:
            own = row.score
            key = (own.env_id, own.cell, row.index, row.names, own.dataset, own.dataset_sha256)
            newest.setdefault((*key, own.metric), {})[row.alone] = row
    return [Line(**found) for found in newest.values() if len(found) == 2]


def answers(results: Sequence[ResultFile]) -> list[list[CrossScore]]:
    """The rows that answer together: of each pair of engines on each dataset."""
    groups: dict[tuple, list[CrossScore]] = {}
    for line in merge_crossed(results):
        own = line.any
        cells = [alike(cell, "side", "tokens") for cell in (own.cell, line.queries.index)]
        key = (own.env_id, *cells, line.queries.names, own.dataset, own.dataset_sha256)
        groups.setdefault(key, []).extend(line.both)
    return list(groups.values())


def crossing_findings(results: Sequence[ResultFile]) -> list[str]:
    """Each answer as a sentence; how the engines ran, where that differs."""
    found = answers(results)
    loads = [_load(rows[0]) for rows in found]
    several = len({*loads}) > 1
    return [
        f"{rows[0].score.cell.model_id} on {rows[0].score.dataset}"
        f"{f' ({load})' if several else ''}: {in_words(rows)}."
        for rows, load in zip(found, loads, strict=True)
    ]


def _load(row: CrossScore) -> str:
    """How both engines ran: once where they ran alike."""
    queries, index = (
        f"{cell.device}, batch {cell.batch}, {cell.threads} threads"
        for cell in (row.score.cell, row.index)
    )
    return queries if queries == index else f"queries {queries}; index {index}"


def crossing_tables(results: Sequence[ResultFile]) -> list[Table]:
    """Every figure of queries in the other's index, then the neighbours; none where none is."""
    lines, labels = merge_crossed(results), labels_of(results)
    figures = [line for line in lines if line.any.difference is not None]
    shared = [line for line in lines if line.any.difference is None]
    if not lines:
        return []
    loads = ("Device", "Threads", "Batch")
    who: list[Column[Line]] = [
        *who_columns(labels, lambda line: line.any),
        *cell_columns(loads, lines, lambda line: line.any, optional=loads),
        *_index_columns(loads, lines),
        Column("Dataset", lambda line: line.any.dataset, "words", **KEY),
        Column("Queries by", lambda line: line.queries.names[0], "words", "constant", "queries {}"),
        Column("Index by", lambda line: line.queries.names[1], "words", "constant", "index {}"),
        Column("Metric", lambda line: line.any.metric, "words", **KEY),
        Column("Queries", lambda line: f"{line.any.cell.side}s", "words", key=True),
        Column("n", lambda line: line.any.n),
    ]
    columns: list[Column[Line]] = [
        *who,
        Column("Queries in index", lambda line: Value(line.any.value, "share", line.any.ci95)),
        Column("Queries' own", lambda line: line.queries.score.baseline_value, "share"),
        Column("Gap, points", lambda line: _gap(line.queries.score)),
        Column("Verdict", lambda line: _verdict(line.queries.score), "verdict"),
        Column("Index's own", lambda line: line.index.score.baseline_value, "share"),
        Column("Gap to it, points", lambda line: _gap(line.index.score)),
        Column("Verdict on it", lambda line: _verdict(line.index.score), "verdict"),
    ]
    caveats = [
        "Queries' own, index's own: one engine for both, which is what embedding the collection "
        "again would give, and what there was before. Brackets are 95 % intervals; gaps are paired "
        "on the same samples.",
    ]
    caveats += [note for result in results if result.crossed for note in result.notes]
    tables = []
    if figures:
        title, found = "Queries in an index of another engine", crossing_findings(results)
        tables.append(tabulate(title, columns, figures, found, caveats))
    if shared:
        columns = [
            *who,
            Column("With queries' own", lambda line: _value(line.queries.score)),
            Column("With index's own", lambda line: _value(line.index.score)),
            Column("Chance", lambda line: line.any.chance, "share", "empty"),
        ]
        tables.append(tabulate("Nearest neighbours in common", columns, shared))
    return tables


def _index_columns(names: Sequence[str], lines: Sequence[Line]) -> list[Column[Line]]:
    """How the engine of the index ran, in what differs from that of the queries."""

    def of_index(line: Line) -> Score:
        return dataclasses.replace(line.any, cell=line.queries.index)

    differ = [
        name
        for name in names
        if any(
            CELL_COLUMNS[name].of(line.any.cell) != CELL_COLUMNS[name].of(line.queries.index)
            for line in lines
        )
    ]
    return [
        dataclasses.replace(
            column, name=f"Index {column.name.lower()}", phrase=f"index {column.phrase}"
        )
        for column in cell_columns(differ, lines, of_index)
    ]


def _value(score: Score) -> Value:
    return Value(score.value, "share", score.ci95)


def _gap(score: Score) -> Value:
    return Value(score.difference, "points", score.diff_ci95)


def _verdict(score: Score) -> Value:
    verdict = verdict_of(score)
    words = verdict_in_words(score) if verdict in COMPARED else verdict.value
    return Value(words, "verdict", severity=SEVERITY_OF.get(verdict, "plain"))
