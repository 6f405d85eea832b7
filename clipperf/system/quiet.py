"""Libraries that report about their users are told not to; whoever wants it sets the variable."""

from __future__ import annotations

import os

VARIABLES = {
    # ONNX Runtime 1.31 resolves its events host's name when it is imported, and keeps an id and a
    # database in the home folder. Its API call to stop that comes too late.
    "ORT_DISABLE_TELEMETRY": "1",
    # NNCF reports to Google Analytics where nobody has declined in a file of the home folder.
    "NNCF_CI": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""What the libraries read when they are imported."""


def hush() -> None:
    """Set `VARIABLES` for this process and its children; what is set already stays."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
