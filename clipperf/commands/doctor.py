"""`clipperf doctor`: what can run here."""

from __future__ import annotations

from clipperf.commands.options import Json, print_json, print_reports

EXAMPLES = (
    "clipperf doctor",
    "clipperf doctor --json",
)


def command(json: Json = False) -> None:
    """Say which runtimes and devices are usable here, and what would make the others usable."""
    from clipperf.inspect import doctor as checks

    rows = checks.check()
    if json:
        print_json(rows)
    else:
        print_reports(checks.report(rows), checks.machine_report(checks.machine()))
