"""What `clipperf inspect` finds out about a file or folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clipperf.nouns.artifact import ShapeRange, TensorSpec

Kind = Literal["plan", "onnx", "openvino", "tower", "artifact", "layout"]

TITLES = {
    "plan": "TensorRT plan",
    "onnx": "ONNX model",
    "openvino": "OpenVINO IR",
    "tower": "tower of another runtime",
    "artifact": "clipperf artifact",
    "layout": "layout for another program",
}


@dataclass(frozen=True)
class Inspection:
    """What one file or folder is.

    `facts` are names and values in the order to show them. `problems` says what is damaged,
    `obstacle` why an undamaged one cannot run here (None: it can). `parts` are the towers of an
    artifact folder.
    """

    path: str
    kind: Kind
    disk_bytes: int
    precision: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    profile: tuple[ShapeRange, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    obstacle: str | None = None
    parts: tuple[Inspection, ...] = ()

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run it, as far as shows without trying."""
        return not self.problems and self.obstacle is None
