"""clipperf: which CLIP, in which runtime, at which cost, with which accuracy.

`clipperf.load(folder)` opens an exported model for deployment; it needs numpy, pillow,
tokenizers and the runtime, and never imports torch.
"""

from __future__ import annotations

from clipperf.version import __version__

__all__ = ["__version__", "load"]

TYPE_CHECKING = False
"""As `typing` has it; importing that here could find a user's file (see `__main__`)."""

if TYPE_CHECKING:
    from typing import Any

    from clipperf.serve.load import load


def __getattr__(name: str) -> Any:
    if name == "load":
        from clipperf.serve.load import load

        return load
    raise AttributeError(f"module 'clipperf' has no attribute {name!r}")
