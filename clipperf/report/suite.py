"""A published table with this machine's figures in it, and what is missing named row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipperf.evals.published import SETS, roots
from clipperf.evals.suites import Wanted
from clipperf.evals.verdicts import verdict_of
from clipperf.nouns.result import Score
from clipperf.report.accuracy import SEVERITY_OF
from clipperf.report.columns import KEY, Column, tabulate
from clipperf.report.table import Table, Value
from clipperf.text import shown


@dataclass(frozen=True)
class Line:
    """A row: what is wanted, and a runtime's score or why there is none."""

    wanted: Wanted
    metric: str
    score: Score | None
    missing: str = ""


def lines_of(wanted: Sequence[Wanted], scores: Sequence[Score]) -> list[Line]:
    """Every wanted row with each runtime's score; `scores` have the datasets' names of `wanted`."""
    lines = []
    for row in wanted:
        own = [score for score in scores if score.dataset == row.dataset]
        fitting = [score for score in own if row.metric in ("", score.metric)]
        lines += [Line(row, score.metric, score) for score in fitting]
        if not fitting:
            known = ", ".join(dict.fromkeys(score.metric for score in own))
            missing = row.missing or (
                f"not among its metrics: {known}" if known else "no runtime could be scored"
            )
            lines.append(Line(row, row.metric, None, missing))
    return lines


def suite_table(
    suite: str, wanted: Sequence[Wanted], scores: Sequence[Score], notes: Sequence[str] = ()
) -> Table:
    """The table of a suite; a row that cannot be filled says what it lacks.

    `notes` are those of its result file, such as what was left out of a dataset.
    """
    lines = lines_of(wanted, scores)
    models = {line.score.cell.model_id for line in lines if line.score}
    columns: list[Column[Line]] = [
        Column("Dataset", lambda line: line.wanted.title, "words", **KEY),
        Column("Metric", lambda line: line.metric, "words", **KEY),
        *([Column("Model", _of(lambda s: s.cell.model_id), "words")] if len(models) > 1 else []),
        Column("Runtime", _of(lambda s: s.cell.setup), "words", key=True),
        Column("n", _of(lambda s: s.n)),
        Column("Score", _of(lambda s: Value(s.value, "share", s.ci95))),
        Column("Baseline", _of(lambda s: s.baseline_value), "share", "empty"),
        Column("Verdict", _of(_verdict), "verdict", "empty"),
        Column("Missing", lambda line: line.missing, "words", "empty"),
    ]
    absent = sum(line.score is None for line in lines)
    filled = len({line.wanted for line in lines if line.score})
    caveats = [f"{filled} of {len(wanted)} rows are filled; {absent} lack data or a metric here."]
    if any(row.missing == SETS[row.dataset].repository for row in wanted if row.dataset in SETS):
        caveats.append(
            "Missing data is named by its repository on the hub: hf download --repo-type dataset "
            f"OWNER/NAME --local-dir {shown(roots()[-1])}/NAME"
        )
    return tabulate(f"Suite {suite}", columns, lines, (), [*caveats, *notes])


Shown = Value | float | str | None


def _of(read: Callable[[Score], Shown]) -> Callable[[Line], Shown]:
    """What `read` gives of a line's score; None where it has none."""
    return lambda line: None if line.score is None else read(line.score)


def _verdict(score: Score) -> Value:
    verdict = verdict_of(score)
    return Value(verdict.value, "verdict", severity=SEVERITY_OF.get(verdict, "plain"))
