"""Bytes, seconds, counts and shares as text. Nobody else formats numbers.

Sizes are binary (MiB = 2**20 bytes), as in the CLIP-as-service table, where 577 MB for ViT-B-32
is 577 MiB of fp32 weights.
"""

from __future__ import annotations

import math

MIB = 2**20
GIB = 2**30

NOT_MEASURED = "-"


def mib(value: int | None) -> str:
    """Bytes as whole MiB without the unit, for columns headed "MiB"."""
    return NOT_MEASURED if value is None else f"{value / MIB:.0f}"


def size(value: int | None) -> str:
    """Bytes with the unit that suits them: "512 B", "14.2 MiB", "3.67 GiB"."""
    if value is None:
        return NOT_MEASURED
    if abs(value) < 1024:
        return f"{value} B"
    for unit, factor in (("KiB", 2**10), ("MiB", MIB)):
        if abs(value) < factor * 1024:
            return f"{value / factor:.1f} {unit}"
    return f"{value / GIB:.2f} GiB"


def ms(value: float | None) -> str:
    """Seconds as milliseconds with three significant digits, for columns headed "ms"."""
    return NOT_MEASURED if value is None else significant(value * 1e3)


def seconds(value: float | None) -> str:
    """Seconds with the unit that suits them: "830 us", "12.4 ms", "3.1 s", "4 min 05 s"."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    if value < 1e-3:
        return f"{significant(value * 1e6)} us"
    if value < 1:
        return f"{significant(value * 1e3)} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60:02d} s"


def rate(value: float | None) -> str:
    """Items per second with three significant digits."""
    return NOT_MEASURED if value is None else significant(value)


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in exponent form."""
    if not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    whole = f"{abs(value):.{digits - 1}e}"
    exponent = int(whole.split("e")[1])
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def ratio(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """A ratio such as "1.35x", with its interval "1.35x [1.31, 1.40]" where there is one."""
    if value is None:
        return NOT_MEASURED
    text = f"{value:.2f}x"
    return text if interval is None else f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]"


def percent(value: float, digits: int = 1) -> str:
    """A share of one in percent without the unit: "53.1"."""
    return f"{value * 100:.{digits}f}"


def share(value: float | None) -> str:
    """A share of one as a percentage: "53.1 %"."""
    return NOT_MEASURED if value is None else f"{percent(value)} %"


def points(value: float | None) -> str:
    """A difference of two shares in percentage points, signed: "-0.1"."""
    return NOT_MEASURED if value is None else f"{value * 100:+.1f}"


def millions(value: int | None) -> str:
    """A parameter count in millions, for columns headed "M"."""
    return NOT_MEASURED if value is None else f"{value / 1e6:.1f}"


def gib(value: int | None) -> str:
    """Bytes as GiB with two decimals without the unit, for columns headed "GiB"."""
    return NOT_MEASURED if value is None else f"{value / GIB:.2f}"
