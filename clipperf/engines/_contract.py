"""What a runtime module offers, and how it is found.

A runtime is one module in this folder. Adding one means adding a file with:

- ``NAME``: what users type after ``--runtime``
- ``ARTIFACT``: the runtime whose artifact it loads ("onnx"), or None where it builds the tower
  from the weights itself
- ``PRECISIONS``: the precisions that it can run
- ``DEVICES``: the devices that it knows, such as ("cpu", "cuda")
- ``def availability(device: str) -> Availability``: whether it can run here, else the command
  that would make it; imports no heavy package
- ``def open(request: EngineRequest) -> Engine``: load one tower; raises EngineError

Nothing in here keeps time: only `bench.cost` holds a clock.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol

from clipperf.errors import UsageError
from clipperf.types import Engine, EngineRequest

MODULES = {
    "torch": "pytorch",
    "onnx": "onnxruntime",
    "simulated": "simulated",
}
"""File name by runtime name. "simulated" has exactly known cost; it tests the harness."""

HIDDEN = frozenset({"simulated"})


@dataclass(frozen=True)
class Availability:
    """Whether a runtime is usable on a device here; `fix` is the command that would make it."""

    usable: bool
    detail: str
    fix: str = ""


class Runtime(Protocol):
    """The module-level interface described above."""

    NAME: str
    ARTIFACT: str | None
    PRECISIONS: tuple[str, ...]
    DEVICES: tuple[str, ...]

    def availability(self, device: str) -> Availability:
        """Whether the runtime can run on `device` here; must not import heavy packages."""
        ...

    def open(self, request: EngineRequest) -> Engine:
        """Load one tower; raises EngineError, or UnsupportedError where it never could."""
        ...


def names() -> list[str]:
    """The runtimes that users can name."""
    return [name for name in MODULES if name not in HIDDEN]


def get(name: str) -> Runtime:
    """The module of a runtime.

    Raises:
        UsageError: there is no such runtime.
    """
    if name not in MODULES:
        raise UsageError(f"no runtime {name!r}; choose from: {', '.join(names())}")
    return importlib.import_module(f"clipperf.engines.{MODULES[name]}")  # type: ignore[return-value]
