"""The largest batch that keeps to a limit of memory, by what smaller batches took."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from clipperf.bench.cost import Limits
from clipperf.nouns.cell import Cell
from clipperf.nouns.memory import Foreseen, What, by_tower, plane_fit
from clipperf.nouns.result import Measurement

PEAKS: dict[What, Callable[[Measurement], int | None]] = {
    "RAM": lambda row: row.rss_peak_bytes,
    "VRAM": lambda row: row.vram_peak_bytes,
}


def foreseen(rows: Sequence[Measurement], limits: Limits) -> list[tuple[Cell, Foreseen]]:
    """Of each tower in each setup the cell of the largest batch within the limits, and its peak.

    Texts are as long as the longest that were measured. Of two limits the one with the smaller
    batch counts. A tower of which no line, or not one input within a limit, is known has none.
    """
    asked: dict[What, int | None] = {"RAM": limits.ram_bytes, "VRAM": limits.vram_bytes}
    measured = [row for row in rows if row.kind == "memory" and row.status == "ok"]
    found = []
    for tower, mine in by_tower(measured, lambda row: row.cell).items():
        disk_bytes = next((row.disk_bytes for row in mine if row.disk_bytes is not None), None)
        choices: list[tuple[Cell, Foreseen]] = []
        for what, limit in asked.items():
            peaks = [(row.cell.batch, row.cell.tokens, PEAKS[what](row)) for row in mine]
            fit = plane_fit([(b, t, y) for b, t, y in peaks if y is not None], disk_bytes)
            if limit is None or fit is None:
                continue
            tokens = max((t for _, t, _ in peaks if t is not None), default=None)
            batch = fit.largest(limit, tokens)
            if batch:
                expected = Foreseen(
                    what, limit, fit.at(batch, tokens), fit.residual_bytes, fit.batches
                )
                choices.append((dataclasses.replace(tower, batch=batch, tokens=tokens), expected))
        found += [min(choices, key=lambda choice: choice[0].batch)] if choices else []
    return found
