"""What `clipperf inspect` finds out about a file or folder, and how it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipperf import units
from clipperf.nouns.artifact import ShapeRange, TensorSpec
from clipperf.nouns.report import Report

Kind = Literal["plan", "onnx", "openvino", "artifact"]

TITLES = {
    "plan": "TensorRT plan",
    "onnx": "ONNX model",
    "openvino": "OpenVINO IR",
    "artifact": "clipperf artifact",
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


def report(found: Inspection) -> Report:
    """An inspection as a table of names and values; damage and obstacles are caveats."""
    rows = [("what", TITLES[found.kind]), *_rows(found)]
    for part in found.parts:
        rows += [(f"{Path(part.path).parent.name}: {name}", value) for name, value in _rows(part)]
    if found.problems:
        verdict = "no, it is damaged"
    else:
        verdict = "yes" if found.obstacle is None else f"no: {found.obstacle}"
    return Report(
        title=found.path,
        columns=("", ""),
        rows=(*rows, ("runs here", verdict)),
        caveats=found.problems,
    )


def _rows(found: Inspection) -> list[tuple[str, str]]:
    rows = [("size", units.size(found.disk_bytes))]
    if found.precision is not None:
        rows.append(("precision", found.precision))
    for name, specs in (("input", found.inputs), ("output", found.outputs)):
        rows += [(name, f"{s.name} {s.dtype} {_shape(s.shape)}") for s in specs]
    for r in found.profile:
        shapes = f"{_shape(r.min)} to {_shape(r.max)}, tuned for {_shape(r.opt)}"
        rows.append(("profile", f"{r.name} {shapes}"))
    return [*rows, *found.facts.items()]


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
