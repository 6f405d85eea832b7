"""Effective robustness as a table; see `evals.robustness`."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf.evals.robustness import Robustness
from clipperf.report.columns import KEY, Column, tabulate
from clipperf.report.table import Table, Value


def robustness_table(found: Sequence[Robustness], source: str) -> Table:
    """Scores on shifted sets beside what ImageNet predicts, by the models of `source`."""
    columns: list[Column[Robustness]] = [
        Column("Model", lambda r: r.shifted.cell.model_id, "words", "constant", **KEY),
        Column("Dataset", lambda r: r.shifted.dataset, "words", **KEY),
        Column("Runtime", lambda r: r.shifted.cell.setup, "words", key=True),
        Column("ImageNet", lambda r: Value(r.base.value, "share", r.base.ci95)),
        Column("Score", lambda r: Value(r.shifted.value, "share", r.shifted.ci95)),
        Column("Predicted", lambda r: r.predicted, "share"),
        Column("Effective robustness, points", lambda r: f"{100 * r.effective:+.1f}", "words"),
        Column("Models", lambda r: r.line.n),
    ]
    caveats = [
        f"Predicted by a line between logits of accuracies, fitted to {source}. Beside models "
        "that were trained on ImageNet this is effective robustness as published; beside other "
        "CLIPs it says how a model stands among them. A model lies off the line by chance as well."
    ]
    return tabulate("Effective robustness", columns, found, (), caveats)
