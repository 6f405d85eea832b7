"""What can run here, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipperf.inspect.doctor import Check
from clipperf.report.table import Table, plain_table


def runtimes_table(checks: Sequence[Check]) -> Table:
    """Every runtime on every device: whether it is usable, and what would make it so."""
    names = ("Runtime", "Device", "Usable", "Details")
    rows = [
        (c.runtime, c.device, "yes" if c.usable else "no", f"{c.detail}{_fix(c)}") for c in checks
    ]
    return plain_table("Runtimes on this machine", names, rows, keys=["Runtime"])


def _fix(check: Check) -> str:
    return f". To use it: {check.fix}" if check.fix else ""


def machine_table(facts: Mapping[str, str]) -> Table:
    """What decides which runtimes are usable and what can be measured."""
    return plain_table("This machine", ("What", "Found"), facts.items())
