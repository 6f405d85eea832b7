"""What can run here, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipperf.inspect.doctor import Check
from clipperf.report.columns import Column, tabulate
from clipperf.report.table import Table


def runtimes_table(checks: Sequence[Check]) -> Table:
    """Every runtime on every device: whether it is usable, and what would make it so."""
    columns: list[Column[Check]] = [
        Column("Runtime", lambda c: c.runtime, "words", key=True),
        Column("Device", lambda c: c.device, "words"),
        Column("Usable", lambda c: "yes" if c.usable else "no", "words"),
        Column(
            "Details",
            lambda c: f"{c.detail}. To use it: {c.fix}" if c.fix else c.detail,
            "words",
        ),
    ]
    return tabulate("Runtimes on this machine", columns, checks)


def machine_table(facts: Mapping[str, str]) -> Table:
    """What decides which runtimes are usable and what can be measured."""
    columns: list[Column[tuple[str, str]]] = [
        Column("What", lambda fact: fact[0], "words"),
        Column("Found", lambda fact: fact[1], "words"),
    ]
    return tabulate("This machine", columns, list(facts.items()))
