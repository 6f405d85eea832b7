"""What `clipperf inspect` found out about a file or folder, as a table."""

from __future__ import annotations

from pathlib import Path

from clipperf import units
from clipperf.inspect.inspection import TITLES, Inspection
from clipperf.report.table import Table, plain_table

Fact = tuple[str, str]


def inspection_table(found: Inspection) -> Table:
    """An inspection as a table of names and values; damage and obstacles are caveats."""
    facts = [("what", TITLES[found.kind]), *_facts(found)]
    for part in found.parts:
        facts += [(f"{Path(part.path).parent.name}: {name}", text) for name, text in _facts(part)]
    if found.problems:
        verdict = "no, it is damaged"
    else:
        verdict = "yes" if found.obstacle is None else f"no: {found.obstacle}"
    return plain_table(found.path, ("", ""), [*facts, ("runs here", verdict)], found.problems)


def _facts(found: Inspection) -> list[Fact]:
    facts = [("size", units.size(found.disk_bytes))]
    if found.precision is not None:
        facts.append(("precision", found.precision))
    for name, specs in (("input", found.inputs), ("output", found.outputs)):
        facts += [(name, f"{s.name} {s.dtype} {shape_text(s.shape)}") for s in specs]
    for r in found.profile:
        shapes = f"{shape_text(r.min)} to {shape_text(r.max)}, tuned for {shape_text(r.opt)}"
        facts.append(("profile", f"{r.name} {shapes}"))
    return [*facts, *found.facts.items()]


def shape_text(shape: tuple[int | str, ...]) -> str:
    """A tensor's shape: "[batch, 77]"."""
    return f"[{', '.join(map(str, shape))}]"
