"""Which cells to measure, and which of them take turns. Pure: nothing is opened or timed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import (
    BASELINE_PRECISION,
    BASELINE_RUNTIME,
    FLOATS,
    SIDES,
    PixelDtype,
    Side,
)


@dataclass(frozen=True)
class Group:
    """Cells that differ in runtime alone (PyTorch's in precision, others in what images are fed
    as), interleaved in blocks.

    `id` names what they have in common. The first cell is the one that the others are compared
    with.
    """

    id: str
    cells: tuple[Cell, ...]


def plan(
    specs: Iterable[ModelSpec],
    runtimes: Sequence[str],
    *,
    sides: Sequence[Side] = SIDES,
    batches: Sequence[int] = (1,),
    precisions: Sequence[str] = (BASELINE_PRECISION,),
    devices: Mapping[str, str] | None = None,
    baseline_precisions: Sequence[str] = (),
    threads: Sequence[int] = (1,),
    tokens: Sequence[int] | None = None,
    inputs: Mapping[str, Sequence[PixelDtype]] | None = None,
) -> list[Group]:
    """Every combination as a list of groups, models outermost, batches innermost.

    - A group is one model, side, precision, thread count, text length and batch, across all
      `runtimes`, so each group is one fair comparison. `devices` says where each runtime runs,
      by default on the CPU.
    - Where PyTorch is among the runtimes it is the baseline: first in every group, in fp32, the
      precision in which the weights are published. The others run in the group's precision, and
      PyTorch once more where that is one of `baseline_precisions`. With several precisions the
      same baseline cell is thus part of several groups; its memory is measured once (see
      `scenarios.closed_loop`).
    - `inputs` are what each runtime's image towers take, by default float32 alone; its cells of
      several take turns.
    - `tokens` are lengths of text inputs, by default each model's full context. Lengths over
      the context are cut to it. Images have none.
    - Repeated values and the groups they would repeat are dropped.
    """
    ordered = sorted(dict.fromkeys(runtimes), key=lambda name: name != BASELINE_RUNTIME)
    if ordered == [BASELINE_RUNTIME]:
        precisions = [p for p in precisions if p in baseline_precisions] or [BASELINE_PRECISION]
    places = {runtime: (devices or {}).get(runtime, "cpu") for runtime in ordered}
    device = "+".join(dict.fromkeys(places.values()))
    groups: dict[str, Group] = {}
    for spec, side, precision, count in itertools.product(specs, sides, precisions, threads):
        turns = [
            (runtime, precision, dtype)
            for runtime in ordered
            if runtime != BASELINE_RUNTIME
            for dtype in ((inputs or {}).get(runtime, FLOATS) if side == "image" else FLOATS)
        ]
        if BASELINE_RUNTIME in ordered:
            own = [BASELINE_PRECISION, *([precision] if precision in baseline_precisions else [])]
            turns = [(BASELINE_RUNTIME, p, FLOATS[0]) for p in dict.fromkeys(own)] + turns
        for length, batch in itertools.product(text_lengths(spec, side, tokens), batches):
            cells = tuple(
                Cell(
                    model_id=spec.id,
                    side=side,
                    runtime=runtime,
                    precision=cell_precision,
                    device=places[runtime],
                    batch=batch,
                    threads=count,
                    tokens=length,
                    input=dtype,
                )
                for runtime, cell_precision, dtype in turns
            )
            name = group_id(spec.id, side, precision, device, count, length, batch)
            groups.setdefault(name, Group(name, cells))
    return list(groups.values())


def text_lengths(spec: ModelSpec, side: Side, tokens: Sequence[int] | None) -> list[int | None]:
    """The input lengths of one tower: [None] for images."""
    if side == "image":
        return [None]
    wanted = tokens or (spec.context_tokens,)
    return list(dict.fromkeys(min(length, spec.context_tokens) for length in wanted))


def group_id(
    model_id: str,
    side: Side,
    precision: str,
    device: str,
    threads: int,
    tokens: int | None,
    batch: int,
) -> str:
    """A readable name that is equal for exactly the cells that are compared."""
    parts = [model_id, side, precision, device, f"threads{threads}"]
    if tokens is not None:
        parts.append(f"tokens{tokens}")
    return "/".join([*parts, f"batch{batch}"])
