"""What decides which numbers a runtime computes on a CPU, where a tower was made and here."""

from __future__ import annotations

import sys

from clipperf.engines import processor
from clipperf.nouns.artifact import Artifact
from clipperf.system.env import cpu_name, version_of

_LIBRARIES = {"onnx": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
"""The module of each runtime, and other distributions that bring it."""


def here(runtime: str) -> dict[str, str]:
    """This machine as far as a CPU runtime's results depend on it, in words."""
    facts = {
        "processor": cpu_name(),
        "instruction sets": ", ".join(processor.instruction_sets()),
        "version": _version(runtime),
    }
    return {name: said for name, said in facts.items() if said}


def is_other(tower: Artifact, runtime: str) -> bool:
    """Whether a tower was made on a machine that may compute other numbers, or on nobody knows."""
    return tower.made_on != here(runtime)


def _version(runtime: str) -> str:
    """The version of a runtime's library; "" where that is not known."""
    names = _LIBRARIES.get(runtime, ())
    module = sys.modules.get(names[0]) if names else None
    if module is not None:  # asked first: metadata takes RAM that a deployed model need not pay for
        return str(getattr(module, "__version__", "")).partition("-")[0]
    return next((version for name in names if (version := version_of(name))), "")
