"""Which precisions this machine's processor multiplies by instructions of its own.

Runtimes would take some without them as well, and compute in float32 unasked.
"""

from __future__ import annotations

from collections.abc import Collection

from clipperf.engines import contract
from clipperf.errors import UnsupportedError
from clipperf.nouns.cell import Cell
from clipperf.nouns.variant import INT8_INSTRUCTIONS, PRECISIONS, Precision
from clipperf.system import env

KINDS = {
    "AMX": ("amx_int8", "amx_bf16"),
    "VNNI": INT8_INSTRUCTIONS,
    "AVX2": ("avx2",),
}
"""Kinds of processors of x86 and what each has, any of it; the first that fits counts."""

WORTH_NAMING = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""Instruction sets of x86 and Arm that towers are computed with."""


def lacks(precision: Precision, among: Collection[str] | None = None) -> str | None:
    """What the processor would need to multiply a precision, in words; None where it has it.

    Others that it multiplies are named, of those `among` which whoever asks can choose.
    """
    flags = env.cpu_flags()
    missing = [group for group in precision.instructions if not flags.intersection(group)]
    if not missing:
        return None
    needed = " and ".join(" or ".join(group) for group in missing)
    others = [
        row.name
        for row in PRECISIONS.rows
        if row.tune.get("cpu") is not None
        and not row.instructions
        and (among is None or row.name in among)
    ]
    named = f" ({', '.join(others)})" if others else ""
    return (
        f"{precision.name} takes a processor with {needed}, which {env.cpu_name()} lacks (clipperf "
        f"doctor lists what it has): choose another precision{named} or another machine"
    )


def check(precision: str, among: Collection[str] | None = None) -> None:
    """Make sure that the processor multiplies a precision; see `lacks`.

    Raises:
        UnsupportedError: it does not; the message says what it lacks.
    """
    row = PRECISIONS.find(precision)
    said = None if row is None else lacks(row, among)
    if said is not None:
        raise UnsupportedError(said)


def check_cell(cell: Cell) -> None:
    """As `check`, of what is to run on the CPU."""
    if cell.device == "cpu":
        runtime = contract.RUNTIMES.find(cell.runtime)
        check(cell.precision, None if runtime is None else runtime.precisions)


def kind() -> str | None:
    """What sets the speed of a processor of x86: "AMX", "VNNI", "AVX2"; None for all others."""
    flags = env.cpu_flags()
    return next((name for name, needed in KINDS.items() if flags.intersection(needed)), None)


def instruction_sets() -> list[str]:
    """What this processor has of the instruction sets that matter here, as Linux names them."""
    return [name for name in WORTH_NAMING if name in env.cpu_flags()]
