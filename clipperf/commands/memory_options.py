"""How much memory a batch may take: `--ram-gb` and `--vram-gb` of `clipperf profile`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from clipperf.errors import UsageError
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.from_files import option_of
from clipperf.nouns.memory import FEWEST_BATCHES
from clipperf.units import GIB

if TYPE_CHECKING:
    from clipperf.bench.cost import Limits

RamWithin = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--ram-gb",
        help="Also say the largest batch whose peak RAM keeps to so many GiB, by a line through "
        "the measured ones, at least four, and run it once.",
    ),
]
VramWithin = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--vram-gb", help="The same of GPU memory."),
]


def within(
    ram_gb: float | None, vram_gb: float | None, scenario: str, batches: Sequence[int]
) -> Limits:
    """The limits that a largest batch has to keep to; raises UsageError where none can follow."""
    from clipperf.bench.cost import Limits

    given = {"--ram-gb": ram_gb, "--vram-gb": vram_gb}
    asked = {option: gib for option, gib in given.items() if gib is not None}
    for option, gib in asked.items():
        if not 0 < gib < 1e6:
            raise UsageError(f"{option} {gib:g}: give GiB above 0, below a million")
        if scenario != CLOSED_LOOP:
            raise UsageError(f"{option} is for closed loops: leave it or {option_of(scenario)} out")
        if len(batches) < FEWEST_BATCHES:
            raise UsageError(
                f"{option} follows from a line through at least {FEWEST_BATCHES} batches, and "
                f"{len(batches)} {'is' if len(batches) == 1 else 'are'} asked for: give more, such "
                f"as --batch 1,8,32,128"
            )

    def size(gib: float | None) -> int | None:
        return None if gib is None else round(gib * GIB)

    return Limits(ram_bytes=size(ram_gb), vram_bytes=size(vram_gb))
