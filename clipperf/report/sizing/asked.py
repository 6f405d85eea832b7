"""Targets as people write them: options of a command, or the same names in a TOML file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from clipperf.errors import UsageError
from clipperf.report.sizing.types import MOST_PERCENTILE, MOST_SPARES, Targets
from clipperf.text import one_line, quoted
from clipperf.units import GIB


@dataclasses.dataclass(frozen=True)
class Number:
    """One number that may be asked for: between `low` and `high`, these only where `closed`.

    None but 0 lies below `least`: what is divided by it, or multiplied, would be no number.
    """

    low: float = 0.0
    high: float = 1e9
    closed: bool = False
    whole: bool = False
    fix: str = "a number above 0, below a billion"
    least: float = 1e-9

    def allows(self, value: object) -> bool:
        """Whether it is such a number."""
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
        if 0 < value < self.least:
            return False
        return self.low <= value <= self.high if self.closed else self.low < value < self.high


MOST_PERCENT = 100 * MOST_PERCENTILE
RATE = Number(0, 1e9, True, fix="a number from 0 to a billion, and none below 1e-9 but 0")
NUMBERS = {
    "images_per_s": RATE,
    "texts_per_s": RATE,
    "slo_ms": Number(),
    "percentile": Number(
        50, MOST_PERCENT, True, fix=f"a number from 50 to {MOST_PERCENT:g}, such as 99"
    ),
    "ram_gb": Number(),
    "vram_gb": Number(),
    "disk_gb": Number(),
    "utilisation": Number(0, 1 + 1e-9, fix="a share above 0, up to 1"),
    "spare": Number(0, MOST_SPARES, True, True, f"a whole number from 0 to {MOST_SPARES}"),
    "min_accuracy": Number(1, 100, fix="percent above 1, such as 60"),
    "max_loss": Number(0, 100, True, fix="percentage points from 0, such as 1"),
}
"""What a number may be, by its name in a file; the option has hyphens and two before it."""

NAMES = (*NUMBERS, "accuracy_on", "price", "assume")

ANY_KIND = ""

MOST_DIGITS = 20
"""Of a whole number that an error quotes."""


def option(name: str) -> str:
    """The option of a name: "--slo-ms"."""
    return f"--{name.replace('_', '-')}"


def read(text: str, where: str) -> dict[str, Any]:
    """What a TOML file asks for, by name; `where` begins an error.

    Raises:
        UsageError: it is no TOML, or holds what is not known or cannot be meant.
    """
    import tomllib

    try:
        found = tomllib.loads(text)
    # A number of thousands of digits is a ValueError, too.
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{where}: not TOML that can be read: {one_line(str(exc))}") from exc
    for name, value in found.items():
        if name not in NAMES:
            raise UsageError(f"{where}: {quoted(name)} is no target: there is {', '.join(NAMES)}")
        if name in NUMBERS:
            _check(f"{where}: {name}", name, value)
    on = found.get("accuracy_on", "a dataset")
    if not isinstance(on, str) or not on:
        raise UsageError(f'{where}: accuracy_on: give a text, such as "coco:recall@1"')
    found["price"] = _prices(found.get("price", {}), where)
    found["assume"] = _assumed(found.get("assume", []), where)
    return found


def _check(who: str, name: str, value: object) -> None:
    if not NUMBERS[name].allows(value):
        said = f"of {MOST_DIGITS} digits and more" if _long(value) else quoted(value)
        raise UsageError(f"{who} {said}: give {NUMBERS[name].fix}")


def _long(value: object) -> bool:
    """Whether it is a number that Python may refuse to write."""
    return isinstance(value, int) and abs(value) >= 10 ** (MOST_DIGITS - 1)


def _prices(value: Any, where: str) -> list[tuple[str, float]]:
    """Of one number, the price of the only kind; of a table, that of each kind."""
    given = value if isinstance(value, dict) else {ANY_KIND: value}
    for kind, price in given.items():
        if not Number().allows(price):
            raise UsageError(f"{where}: price {quoted(kind)}: give a number above 0 an hour")
    return [(kind, float(price)) for kind, price in given.items()]


def _assumed(value: object, where: str) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise UsageError(f'{where}: assume: give names of hardware, such as ["rtx4090"]')
    return names


def price(text: str) -> tuple[str, float]:
    """KIND=PER_HOUR of an option, or a number alone for the only kind; raises UsageError."""
    kind, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not Number().allows(value) or text.startswith("="):
        raise UsageError(
            f"--price {quoted(text)}: give KIND=PRICE, per hour of one machine, such as E1=0.4"
        )
    return kind.strip(), value


def _each_once(prices: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Prices by kind; raises UsageError where one kind has two."""
    found: dict[str, float] = {}
    for kind, per_hour in prices:
        if found.setdefault(kind, per_hour) != per_hour:
            name = kind or "a machine"
            raise UsageError(f"{name} has two prices: {found[kind]:g} and {per_hour:g}")
    return found


def targets_of(given: Mapping[str, Any], filed: Mapping[str, Any]) -> Targets:
    """Targets from options, where they are not None, before those of a file.

    Of prices those of the options replace a file's of the same kind.

    Raises:
        UsageError: a number is none that can be meant.
    """
    for name, value in given.items():
        if name in NUMBERS and value is not None:
            _check(option(name), name, value)
    if given.get("accuracy_on") == "":
        raise UsageError('--accuracy-on is empty: give a dataset, such as "coco:recall@1"')
    asked = {**filed, **{name: value for name, value in given.items() if value is not None}}

    def of(name: str, parts: int) -> float | None:
        # Divided: 57 x 0.01 is more than 0.57, which as a share of samples would not reach it.
        return None if asked.get(name) is None else asked[name] / parts

    def size(name: str) -> int | None:
        return None if asked.get(name) is None else round(asked[name] * GIB)

    usual = Targets(0.0, 0.0)
    if "percentile" in asked and "slo_ms" not in asked:
        raise UsageError(
            f"--percentile {asked['percentile']:g} changes nothing without --slo-ms: it is the "
            "share of answers that this binds; give both, or neither"
        )
    prices = {**dict(filed.get("price", ())), **_each_once(given.get("price") or ())}
    return Targets(
        images_per_s=float(asked.get("images_per_s", 0.0)),
        texts_per_s=float(asked.get("texts_per_s", 0.0)),
        slo_s=of("slo_ms", 1000),
        ram_bytes=size("ram_gb"),
        vram_bytes=size("vram_gb"),
        utilisation=min(1.0, float(asked.get("utilisation", usual.utilisation))),
        percentile=float(asked.get("percentile", 100 * usual.percentile)) / 100,
        disk_bytes=size("disk_gb"),
        min_accuracy=of("min_accuracy", 100),
        max_loss=of("max_loss", 100),
        accuracy_on=asked.get("accuracy_on"),
        spare=int(asked.get("spare", usual.spare)),
        prices=tuple(prices.items()),
        assume=tuple(asked.get("assume", ())),
    )
