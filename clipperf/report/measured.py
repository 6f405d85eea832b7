"""Passes that are told by themselves, not merged with others of their cell (see `records`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Kind, Measurement, ResultFile
from clipperf.report.records import cell_order, in_order


@dataclass(frozen=True)
class Measured:
    """What a row of a table is about: one pass over a cell."""

    measured: Measurement

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self.measured.cell

    @property
    def env_id(self) -> str:
        """The machine."""
        return self.measured.env_id

    @property
    def random_weights(self) -> bool:
        """Whether the weights are noise."""
        return self.measured.random_weights


def newest(
    results: Sequence[ResultFile],
    kind: Kind,
    apart: Callable[[Measurement], Hashable] = lambda row: None,
) -> list[Measurement]:
    """The rows of a kind, of each machine, cell and what sets them `apart` the newest, in order."""
    found = {
        (row.env_id, row.cell, apart(row)): row
        for result in in_order(results)
        for row in result.measurements
        if row.kind == kind
    }
    return sorted(found.values(), key=lambda row: (row.env_id, cell_order(row.cell)))
