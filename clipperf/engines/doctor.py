"""What can run here: each runtime and device, and the command that would make it usable."""

from __future__ import annotations

from clipperf.engines import _contract
from clipperf.types import Report


def check() -> list[dict[str, str | bool]]:
    """One record per runtime and device: runtime, device, usable, detail, fix."""
    rows: list[dict[str, str | bool]] = []
    for name in _contract.names():
        runtime = _contract.get(name)
        for device in runtime.devices:
            found = runtime.availability(device)
            rows.append(
                {
                    "runtime": name,
                    "device": device,
                    "usable": found.usable,
                    "detail": found.detail,
                    "fix": "" if found.usable else found.fix,
                }
            )
    return rows


def report(rows: list[dict[str, str | bool]]) -> Report:
    """The records as a table."""
    return Report(
        title="Runtimes on this machine",
        columns=("Runtime", "Device", "Usable", "Details"),
        rows=tuple(
            (
                str(row["runtime"]),
                str(row["device"]),
                "yes" if row["usable"] else "no",
                f"{row['detail']}. To use it: {row['fix']}" if row["fix"] else str(row["detail"]),
            )
            for row in rows
        ),
        numeric=(False,) * 4,
    )
