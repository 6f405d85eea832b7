"""Scores beside published figures, and which of them are further apart than is explained."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf.evals.against import Beside, Nearness
from clipperf.evals.figures import SPREAD
from clipperf.report.columns import KEY, Column, tabulate
from clipperf.report.table import Severity, Table, Value

SEVERITY: dict[Nearness, Severity] = {Nearness.AGREES: "good", Nearness.APART: "bad"}


def against_table(rows: Sequence[Beside], given: str) -> Table:
    """Every score beside each published figure of it; `given` is what --against was."""
    columns: list[Column[Beside]] = [
        Column("Model", lambda row: row.cell.model_id, "words", "constant", **KEY),
        Column("Dataset", lambda row: row.figure.dataset, "words", **KEY),
        Column("Metric", lambda row: row.figure.metric, "words", **KEY),
        Column("Runtime", lambda row: row.cell.setup, "words", key=True),
        Column("n", lambda row: row.n),
        Column("Score", lambda row: Value(row.value, "share", row.ci95)),
        Column("Published", lambda row: row.figure.value, "share"),
        Column("Source", lambda row: row.figure.source, "words"),
        Column("Gap, points", lambda row: row.difference, "points"),
        Column("Explained, points", lambda row: 100 * row.allowed, "number"),
        Column("Verdict", _nearness, "verdict"),
        Column("Differs", lambda row: "; ".join(row.differs), "words", "empty"),
    ]
    findings = []
    apart = [row for row in rows if row.nearness is Nearness.APART]
    if apart:
        worst = max(apart, key=lambda row: abs(row.difference) - row.allowed)
        findings.append(
            f"{len(apart)} of {len(rows)} figures lie further apart than sampling and the spread "
            f"between published runs explain (most of all {worst.cell.setup} on "
            f"{worst.figure.dataset}, {worst.figure.metric}: "
            f"{Value(worst.difference, 'points').text} points from {worst.figure.source})."
        )
    caveats = [
        f"Explained: how far the score's 95 % interval reaches to that side, and the spread "
        f"between published runs: CLIP-as-service and LAION ran the same models, and 90 % of their "
        f"figures lie within {100 * SPREAD:g} points; on some sets more, up to 18 on "
        f"diabetic_retinopathy.",
        "Only LAION's table says in which precision it was computed; autocast moved top-1 by 0.3 "
        "points and top-5 by 0.5.",
    ]
    if not rows:
        caveats = [f"{given}: no figure of these models on these datasets and metrics."]
    return tabulate("Beside published figures", columns, rows, findings, caveats)


def _nearness(row: Beside) -> Value:
    severity = SEVERITY.get(row.nearness, "plain")
    return Value(row.nearness.value, "verdict", severity=severity)
