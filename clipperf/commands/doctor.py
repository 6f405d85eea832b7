"""`clipperf doctor`: what can run here."""

from __future__ import annotations

from clipperf.commands.options import Json, print_json, print_tables

EXAMPLES = (
    "clipperf doctor",
    "clipperf doctor --json",
)


def command(json: Json = False) -> None:
    """Say which runtimes and devices are usable here, and what would make the others usable."""
    from clipperf.inspect import doctor
    from clipperf.report.doctor import machine_table, runtimes_table

    checks = doctor.check()
    if json:
        print_json(checks)
    else:
        print_tables(runtimes_table(checks), machine_table(doctor.machine()))
