"""The largest batch that keeps to a limit of memory, by what smaller batches took."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from clipperf.bench.cost import Limits
from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.memory import Foreseen, What, by_tower, line_of
from clipperf.nouns.result import Measurement
from clipperf.system import gpus


def check_limits(limits: Limits, devices: Mapping[str, str]) -> None:
    """Make sure that runtimes on these `devices` have what is limited.

    Raises:
        UsageError: VRAM is, and none of them runs on a GPU.
    """
    if limits.vram_bytes is not None and gpus.CUDA not in devices.values():
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise UsageError(
            f"--vram-gb is of a GPU's memory, and none is used ({where}): leave it out"
        )


def foreseen(rows: Sequence[Measurement], limits: Limits) -> list[tuple[Cell, Foreseen]]:
    """Of each tower in each setup the cell of the largest batch within the limits, and its peak.

    Texts are as long as the longest that the line is from. Of two limits the one with the smaller
    batch counts. A tower of which no line, or not one input within a limit, is known has none.
    """
    asked: dict[What, int | None] = {"RAM": limits.ram_bytes, "VRAM": limits.vram_bytes}
    measured = [row for row in rows if row.kind == "memory" and row.status == "ok"]
    found = []
    for tower, mine in by_tower(measured, lambda row: row.cell).items():
        choices: list[tuple[Cell, Foreseen]] = []
        for what, limit in asked.items():
            line = line_of(mine, what)
            if limit is None or line.fit is None:
                continue
            batch, fit = line.largest(limit), line.fit
            if batch:
                at = fit.at(batch, line.tokens)
                expected = Foreseen(what, limit, at, fit.margin(batch, line.tokens), fit.batches)
                cell = dataclasses.replace(tower, batch=batch, tokens=line.tokens)
                choices.append((cell, expected))
        found += [min(choices, key=lambda choice: choice[0].batch)] if choices else []
    return found
