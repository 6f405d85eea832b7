"""Libraries that report about their users are told not to.

Whoever wants them to sets their variables, or CLIPPERF_ALLOW_REPORTS for all of them.
"""

from __future__ import annotations

import os
import sys

VARIABLES = {
    # ONNX Runtime 1.31 resolves its events host's name when it is imported, and keeps an id and a
    # database in the home folder. Its API call to stop that comes too late.
    "ORT_DISABLE_TELEMETRY": "1",
    # NNCF reports to Google Analytics, unless somebody declined in a file of the home folder.
    "NNCF_CI": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""What the libraries read when they are imported."""


REPORTER = "openvino_telemetry"
"""The package through which `import openvino` reports to Google Analytics, and keeps an id in the
home folder. No variable stops it; both OpenVINO and NNCF do without it where it is missing."""

ALLOW = "CLIPPERF_ALLOW_REPORTS"


def hush() -> None:
    """Set `VARIABLES` for this process and its children; what is set already stays."""
    if not os.environ.get(ALLOW):
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)


def hush_openvino() -> None:
    """Before OpenVINO or NNCF is imported: let them find no reporter in this process."""
    hush()
    if not os.environ.get(ALLOW):
        sys.modules.setdefault(REPORTER, None)  # type: ignore[arg-type]
