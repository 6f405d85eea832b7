"""A comparison as lines and tables, for a terminal and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipperf.nouns.result import Score
from clipperf.report.columns import (
    CELL,
    KEY,
    Column,
    cell_columns,
    tabulate,
    who_columns,
)
from clipperf.report.compare.comparison import Comparison
from clipperf.report.compare.figures import METRICS, THROUGHPUT, Change, Shift
from clipperf.report.compare.match import Pair, score_name
from clipperf.report.formats.md import escaped, pipe_table
from clipperf.report.records import Row
from clipperf.report.table import Severity, Table, Value
from clipperf.report.tables import note

COST_LEGEND = (
    'Ratios are B over A with 95 % intervals, "vs PyTorch" that of the speed-ups over PyTorch. '
    'Above 1, throughput and "vs PyTorch" are better; latencies, RAM, VRAM, disk and load are '
    "worse. What is read once in each has no interval.",
)
UNPAIRED = (
    "Unpaired: A and B did not take turns. The interval holds what each run shows of itself, not "
    'what a machine drifts between two runs; "vs PyTorch" is free of that as far as PyTorch '
    "drifted alike."
)
PAIRED = "Paired: A and B took turns in one run, and ratios are those of their blocks."
SHIFT_LEGEND = (
    "Points are B minus A with 95 % intervals: paired, over the same samples; via PyTorch, from "
    "what each differs from PyTorch by on the same samples; unpaired, from each one's own "
    "interval, which is far wider than it would be in pairs."
)
MOST_ROWS = 20
"""Rows of one side that are named."""

Changed = tuple[Pair[Row], dict[str, Change]]
Shifted = tuple[Pair[Score], Shift]


def _first(record: tuple) -> Pair:
    return record[0]  # type: ignore[no-any-return]


def tables(found: Comparison) -> list[Table]:
    """Costs, then accuracy, as far as there are any."""
    made = [_costs(found)] if found.rows else []
    made += [_accuracy(found)] if found.scores else []
    return made


def _costs(found: Comparison) -> Table:
    how = {changes[THROUGHPUT.name].how for _, changes in found.rows} - {"once"}
    columns: list[Column[Changed]] = [
        *who_columns({}, _first),
        *cell_columns([name for name in CELL if name != "Runtime"], found.rows, _first),
        Column("Runtime", lambda r: r[0].setup, "words", key=True),
        Column("A items/s", lambda r: r[0].a.items_per_s, "rate", "empty"),
        Column("B items/s", lambda r: r[0].b.items_per_s, "rate", "empty"),
        *(Column(m.heading, _ratio(m.name), "ratio", "empty") for m in METRICS),
        Column("Blocks", _blocks, "words", "constant"),
        Column("Note", lambda r: _note(found, r[0]), "note", "empty", key=True),
    ]
    legend = [*COST_LEGEND]
    legend += [PAIRED] if "paired" in how else []
    legend += [UNPAIRED] if "unpaired" in how else []
    return tabulate("B over A", columns, found.rows, caveats=legend)


def _ratio(name: str) -> Callable[[Changed], Value]:
    def shown(row: Changed) -> Value:
        seen = row[1][name]
        return Value(seen.ratio, "ratio", seen.interval)

    return shown


def _blocks(row: Changed) -> str | None:
    how = row[1][THROUGHPUT.name].how
    return None if how == "once" else how


def _note(found: Comparison, pair: Pair[Row]) -> Value:
    """How either measurement went where it did not go well, and the rules that the row fails."""
    words, severity = [], None
    for name, row in (("A", pair.a), ("B", pair.b)):
        said = note(row)
        if said.value:
            words.append(f"{name} {said.text}")
            severity = "bad" if "bad" in (severity, said.severity) else said.severity
    broken = found.broken(pair.name)
    words += [f"fails {rule}" for rule in broken]
    return Value("; ".join(words), "note", severity="bad" if broken else severity)


def _accuracy(found: Comparison) -> Table:
    columns: list[Column[Shifted]] = [
        *who_columns({}, _first),
        *cell_columns(["Device"], found.scores, _first),
        Column("Dataset", lambda s: s[0].b.dataset, "words", **KEY),
        Column("Metric", lambda s: s[0].b.metric, "words", **KEY),
        Column("Runtime", lambda s: s[0].setup, "words", key=True),
        Column("n", lambda s: s[0].b.n),
        Column("A", lambda s: Value(s[0].a.value, "share")),
        Column("B", lambda s: Value(s[0].b.value, "share")),
        Column("B - A, points", lambda s: Value(s[1].difference, "points", s[1].interval)),
        Column("Samples", lambda s: s[1].basis, "words", "constant"),
        Column("Note", lambda s: _score_note(found, s[0]), "note", "empty", key=True),
    ]
    return tabulate("Accuracy, B minus A", columns, found.scores, caveats=[SHIFT_LEGEND])


def _score_note(found: Comparison, pair: Pair[Score]) -> Value:
    broken = found.broken(score_name(pair.b, pair.setup))
    severity: Severity | None = "bad" if broken else None
    return Value("; ".join(f"fails {rule}" for rule in broken), "note", severity=severity)


# --- lines ---------------------------------------------------------------------------------


def sources(found: Comparison) -> list[str]:
    """Which files A and B are."""
    sides = zip(("A", "B"), found.sources, strict=True)
    return [f"{name}: {path} ({when})" for name, (path, when) in sides]


def rules(found: Comparison) -> list[str]:
    """What became of each rule."""
    return [f"{judged.rule.text}: {judged.words}" for judged in found.judged]


def left_over(found: Comparison) -> list[str]:
    """The rows that one side has alone."""
    sides = (("A", found.only_a), ("B", found.only_b))
    return [f"Only in {name}: {_few(rows)}." for name, rows in sides if rows]


def _few(rows: Sequence[str]) -> str:
    more = len(rows) - MOST_ROWS
    rest = f"; and {more} more, which --json lists" if more > 0 else ""
    return f"{'; '.join(rows[:MOST_ROWS])}{rest}"


def markdown(found: Comparison) -> str:
    """All of it for a pull request: the verdict first, then what to know, then the tables."""
    count = sum(judged.failed for judged in found.judged)
    if not found.judged:
        verdict = "B beside A"
    elif count:
        verdict = f"{count} of {len(found.judged)} rules failed"
    else:
        verdict = "all rules hold"
    lines = [f"### clipperf compare: {verdict}", ""]
    lines += [f"- {escaped(line)}" for line in sources(found)]
    lines += [f"- **Warning**: {escaped(line)}" for line in found.warnings]
    for judged in found.judged:
        mark = "**" if judged.failed else ""
        lines.append(f"- {mark}{escaped(judged.rule.text)}{mark}: {escaped(judged.words)}")
    for table in tables(found):
        lines += ["", f"**{escaped(table.title)}**", "", *pipe_table(table), ""]
        lines += [f"- {escaped(line)}" for line in table.caveats]
    over = left_over(found)
    lines += ["", *(f"- {escaped(line)}" for line in over)] if over else []
    return "\n".join(lines)
